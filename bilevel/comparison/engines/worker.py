"""What a worker says of itself when it is asked whether it could compute."""

import os
import platform
from typing import Any

from bilevel.storage.environment import environment


def introduced() -> dict[str, Any]:
    """Where this is computed, by what, and one gradient whose closed form is known.

    Returns:
        "host", "process", "processor" (see `processor`), "processors" (how many), "threads" of
        torch, "versions" of packages by name (with "python" and the "commit" of a checkout), and
        "gradient": that of Lemma 4.1 at w = 2, which is 0.12.
    """
    import torch

    from bilevel.comparison.engines.processor import processor
    from bilevel.point.point import hypergradient
    from bilevel.problem import registry

    problem = registry.load_problem("scalar-product")
    found = hypergradient(problem, torch.tensor(2.0, dtype=torch.float64))
    known = environment()
    return {
        "host": platform.node(),
        "process": os.getpid(),
        "processor": processor("cpu"),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {
            **known["packages"],
            "python": known["python"],
            "commit": known["commit"],
        },
        "gradient": float(found.body),
    }
