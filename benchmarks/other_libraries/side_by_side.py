"""Run the blocks of docs/libraries.md: how far is each library's gradient from a formula?

    gradient_j = -e^u_j theta_j v_j,   H v = X_v' (X_v theta - y_v) / m,   H = X' X / n + diag(e^u)

Run: pip install torchopt==0.7.3 jaxopt==0.8.5 optimistix==0.1.0 cvxpylayers==1.2.0 betty-ml==0.1.1
himalaya==0.4.11 && python side_by_side.py. Blocks of libraries that are not installed are named.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "libraries.md"
BLOCK = re.compile(r'^=== "(\S+)"\n\n    ```python3\n(.*?)^    ```', re.MULTILINE | re.DOTALL)


def formula(x: Any, y: Any, vx: Any, vy: Any) -> np.ndarray:
    """The gradient at u = -2, in NumPy."""
    penalties = np.full(5, np.exp(-2.0))
    hessian = x.T @ x / len(x) + np.diag(penalties)
    theta = np.linalg.solve(hessian, x.T @ y / len(x))
    adjoint = np.linalg.solve(hessian, vx.T @ (vx @ theta - vy) / len(vx))
    return -penalties * theta * adjoint


def main() -> None:
    """Print a line for each library."""
    page = PAGE.read_text(encoding="utf-8")
    rows = page.split("```python\n")[1].split("```")[0]
    data: dict[str, Any] = {}
    exec(rows, data)
    exact = formula(*(data[name] for name in ("x", "y", "vx", "vy")))
    for library, code in BLOCK.findall(page):
        names = dict(data)
        try:
            exec(textwrap.dedent(code), names)
        except ImportError as error:
            print(f"{library:12} not installed: {error}")
            continue
        if "gradient" in names:
            off = np.abs(np.asarray(names["gradient"]) - exact).max()
            print(f"{library:12} off by {off:.1e}, relative {off / np.abs(exact).max():.1e}")
        else:
            print(f"{library:12} runs")


if __name__ == "__main__":
    main()
