"""The built site in a browser, from a server of one's own and in the dark scheme."""

import pytest
from built_site import DESK, PAGES, PHONE, chromium, reading, served

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def web():
    with (
        chromium() as browser,
        served() as address,
        reading(browser, address, scheme="dark", viewport=PHONE) as reader,
    ):
        yield reader


@pytest.mark.parametrize("source", PAGES, ids=str)
def test_a_page_is_whole_from_a_server(web, source):
    page = web.turn_to(source, PHONE)
    assert page.locator(".katex-error").all_text_contents() == []
    assert web.measure("wide") == []
    web.assert_readable()
    page.set_viewport_size(DESK)
    web.assert_readable()
    web.assert_quiet()
