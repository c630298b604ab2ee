"""The page in a real Chromium: a person signs in and pauses; nothing else is fetched, it fits, dark is dark."""

import re
import shutil

import pytest

from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.web.sessions import Role
from tests.fedhealth.site.web.chromium import start_chromium
from tests.fedhealth.site.web.conftest import PASSPHRASE

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.services, pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")]
PAGES = ("/", "/budget", "/studies", "/data", "/runs", "/audit")


@pytest.fixture(scope="module", name="page")
def page_(place, tmp_path_factory):
    """A page that has signed in to decide."""
    with start_chromium(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        page.open(f"http://127.0.0.1:{place.port}/")
        page.send_form("/sign-in", token=place.tokens[Role.decide])
        assert page.evaluate("document.querySelector('h1').textContent") == "State"
        yield page


def test_a_person_pauses_and_resumes(place, page):
    for path, paused in (("/pause", True), ("/resume", False)):
        page.open(f"http://127.0.0.1:{place.port}/")
        page.send_form(path, passphrase=PASSPHRASE)
        assert DaemonState(place.home).is_paused is paused


@pytest.mark.parametrize("width", [390, 3840])
def test_every_page_fits_and_has_names_for_everything(place, page, width):
    page.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    for path in (*PAGES, f"/studies/{place.waiting}"):
        page.open(f"http://127.0.0.1:{place.port}{path}")
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.evaluate("document.querySelectorAll('h1').length") == 1
        assert page.evaluate("document.querySelectorAll('main').length") == 1
        assert page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), select')].every(e => e.labels.length)"
        )
        assert page.evaluate("[...document.querySelectorAll('table')].every(e => e.caption)")


def test_dark_is_dark(page, place):
    seen = {}
    for scheme in ("light", "dark"):
        page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.open(f"http://127.0.0.1:{place.port}/")
        for name in ("h1", "nav a"):
            color = page.evaluate(f"getComputedStyle(document.querySelector('{name}')).color")
            seen[scheme, name] = sum(map(int, re.findall(r"\d+", color)[:3]))
    assert seen["light", "h1"] < 100 < 600 < seen["dark", "h1"]
    assert seen["light", "nav a"] < 300 < 500 < seen["dark", "nav a"]  # a browser's own blue cannot be read on black


def test_nothing_else_is_fetched_and_nothing_is_wrong(place, page):
    page.open(f"http://127.0.0.1:{place.port}/")
    foreign = [each for each in page.list_addresses() if not each.startswith(f"http://127.0.0.1:{place.port}/")]
    assert foreign == []
    assert page.list_complaints() == []


def test_a_script_that_was_planted_does_not_run(place, page):
    page.open(f"http://127.0.0.1:{place.port}/studies")
    assert "<script>2</script>" in page.evaluate("document.body.innerText")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert page.evaluate("window.ran === undefined")
