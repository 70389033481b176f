"""The built site, opened by a browser from disk and from a server of one's own."""

import functools
import http.server
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
PAGES = [path.relative_to(ROOT / "docs") for path in sorted((ROOT / "docs").rglob("*.md"))]
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
MEASURES = (Path(__file__).parent / "site_measures.js").read_text(encoding="utf-8")
STILL = """document.addEventListener("DOMContentLoaded", () => {
  const style = document.createElement("style");
  style.textContent = "*, ::before, ::after { transition: none !important }";
  document.head.append(style);
});"""
"""Colours are what they will be, at once."""
NO_SEARCH = """Object.defineProperty(window, "__search", { set: () => {}, get: () => ({
  index: Promise.resolve({
    config: { lang: ["en"], separator: " ", pipeline: [], fields: {} }, docs: []
  })
}) });"""
"""Most of the work of opening a page is its index of the search, the same on all pages."""
HARMLESS = "net::ERR_ABORTED"
"""What a request says that was under way when its page was left."""


@contextmanager
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    if not (SITE / "index.html").is_file():
        pytest.skip("needs the built site: make docs-browser")
    with playwright.sync_playwright() as started:
        names = ("chromium", "chromium-browser", "google-chrome")
        found = next(filter(None, map(shutil.which, names)), started.chromium.executable_path)
        if not Path(found).is_file():
            pytest.skip(
                "needs Chromium: Debian's package chromium, or `playwright install chromium`"
            )
        browser = started.chromium.launch(executable_path=found)
        yield browser
        browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served():
    """The address of the site on a free port of this machine."""
    handler = functools.partial(_Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Reader:
    """One tab that goes from page to page: what a page asked for, and what it complained of."""

    def __init__(self, browser, base, scheme="light", viewport=DESK, search=False):
        self.base = base
        self.context = browser.new_context(color_scheme=scheme, viewport=viewport)
        for script in (MEASURES, STILL, *([] if search else [NO_SEARCH])):
            self.context.add_init_script(script)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)  # a browser that two cores share
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", self.failed)
        self.page.on("response", self.answered)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self.heard)

    def failed(self, request):
        if request.failure != HARMLESS:
            self.complaints.append(f"{request.failure}: {request.url}")

    def answered(self, response):
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {response.url}")

    def heard(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, path):
        self.requests.clear()
        self.complaints.clear()
        self.page.goto(f"{self.base}/{path}")
        return self.page

    def turn_to(self, source, viewport):
        """Open the page of a source, in a window of a size."""
        self.page.set_viewport_size(viewport)
        return self.open(source.with_suffix(".html").as_posix())

    def assert_quiet(self):
        assert self.requests
        assert self.outside() == []
        assert self.complaints == []

    def assert_readable(self):
        """Text has the contrast of WCAG AA."""
        found = self.measure("faint")
        assert found["seen"] > 20
        assert found["faint"] == []

    def outside(self):
        inside = (self.base + "/", "data:", "blob:", "about:")
        return [url for url in self.requests if not url.startswith(inside)]

    def measure(self, name, *arguments):
        return self.page.evaluate(f"given => window.siteMeasures.{name}(...given)", list(arguments))


@contextmanager
def reading(browser, base, **options):
    reader = Reader(browser, base, **options)
    yield reader
    reader.context.close()
