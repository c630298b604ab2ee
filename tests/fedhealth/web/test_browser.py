"""Either side's page in a real Chromium: it fits, has names for everything, dark is dark, and nothing else is fetched.

With axe-core's `axe.min.js` at FEDHEALTH_AXE, its rules are checked too, in a page of the browser's own.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.fedhealth.web.chromium import start_chromium

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = os.environ.get("FEDHEALTH_AXE", "")
pytestmark = [pytest.mark.services, pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")]


@pytest.fixture(scope="module", name="page")
def page_(place, tmp_path_factory):
    """A page that has signed in."""
    with start_chromium(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        page.open(f"http://127.0.0.1:{place.port}/")
        page.send_form("/sign-in", token=place.tokens[place.highest])
        assert page.evaluate("document.querySelector('nav') !== null")
        yield page


@pytest.mark.parametrize("width", [390, 3840])
def test_every_page_fits_and_has_names_for_everything(place, page, width):
    page.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    for path in place.shown:
        page.open(f"http://127.0.0.1:{place.port}{path}")
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.evaluate("document.querySelectorAll('h1').length") == 1
        assert page.evaluate("document.querySelectorAll('main').length") == 1
        assert page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), select')].every(e => e.labels.length)"
        )
        assert page.evaluate("[...document.querySelectorAll('table')].every(e => e.caption)")


@pytest.mark.skipif(not AXE, reason="no axe-core on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(place, page, scheme):
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    for path in place.shown:
        page.open(f"http://127.0.0.1:{place.port}{path}")
        page.evaluate(Path(AXE).read_text("utf-8"))
        found = page.evaluate_promise("axe.run().then(r => r.violations.map(v => v.id + ' ' + v.nodes[0].html))")
        assert found == [], path


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
    page.open(f"http://127.0.0.1:{place.port}{place.titled}")
    assert "<script>2</script>" in page.evaluate("document.body.innerText")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert page.evaluate("window.ran === undefined")
