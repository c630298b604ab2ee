"""The hospital's page in a real Chromium: a person pauses and resumes."""

import shutil

import pytest

from fedhealth.site.daemon_state import DaemonState
from fedhealth.web.sessions import Role
from tests.fedhealth.site.web.hospital import PASSPHRASE
from tests.fedhealth.web.chromium import start_chromium

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.services, pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")]


def test_a_person_signs_in_pauses_and_resumes(place, tmp_path):
    with start_chromium(BROWSER, tmp_path) as page:
        page.open(f"http://127.0.0.1:{place.port}/")
        page.send_form("/sign-in", token=place.tokens[Role.decide])
        assert page.evaluate("document.querySelector('h1').textContent") == "State"
        for path, paused in (("/pause", True), ("/resume", False)):
            page.open(f"http://127.0.0.1:{place.port}/")
            page.send_form(path, passphrase=PASSPHRASE)
            assert DaemonState(place.home).is_paused is paused
