"""Photograph the report of `bilevel compare`: docs/assets/report.png and report-curves.png.

python docs/figures/report.py          needs what `make docs-browser` installs, half a minute
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ASSETS = Path(__file__).parents[1] / "assets"
SIZE = {"width": 1000, "height": 1064}


def shrunk(path: Path) -> None:
    """The same picture with 64 colours: a quarter of the bytes."""
    Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def photograph(report: Path) -> None:
    """The first page, and the figure of the test metric over the steps."""
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport=SIZE)
        page.goto(report.as_uri())
        page.screenshot(path=ASSETS / "report.png")
        page.locator("figure").first.screenshot(path=ASSETS / "report-curves.png")
        browser.close()
    for name in ("report.png", "report-curves.png"):
        shrunk(ASSETS / name)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        results = sys.argv[1] if len(sys.argv) > 1 else f"{folder}/first"
        if not Path(results).exists():
            command = [sys.executable, "-m", "bilevel", "compare", "--output", results]
            subprocess.run(command, check=True)
        photograph(Path(results).resolve() / "report.html")
