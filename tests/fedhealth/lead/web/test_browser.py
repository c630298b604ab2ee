"""The lead's page in a real Chromium: a report keeps its style, and no script of it runs."""

import shutil

import pytest

from fedhealth.report.render import render_run_report
from fedhealth.web.sessions import Role
from tests.fedhealth.lead.web.consortium import ENDED
from tests.fedhealth.web.chromium import start_chromium

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.services, pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")]


def test_a_report_is_shown_with_its_style_and_runs_no_script(place, tmp_path):
    report, planted = place.ended / "report.html", "<script>document.title = 'ran'</script></body>"
    report.write_text(render_run_report(place.ended).replace("</body>", planted))
    with start_chromium(BROWSER, tmp_path) as page:
        page.open(f"http://127.0.0.1:{place.port}/")
        page.send_form("/sign-in", token=place.tokens[Role.read])
        page.open(f"http://127.0.0.1:{place.port}/runs/{ENDED}/report")
        assert "What each hospital gains" in page.evaluate("document.body.innerText")
        assert page.evaluate("getComputedStyle(document.body).maxWidth") == "1080px"
        assert page.evaluate("document.title") != "ran"
