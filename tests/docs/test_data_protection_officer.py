"""docs/for-data-protection-officers.md: its steps on the page, taken as written, over HTTP at `fedhealth site web`."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import closing
from html import unescape
from pathlib import Path
from socket import create_connection

import pytest

from clients.app import get_job_cache
from fedhealth.consortium import identity
from fedhealth.protocol.messages import EVALUATE, TRAIN
from fedhealth.runtime.local_consortium import find_free_ports
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.web.passphrase import set_passphrase
from fedhealth.site.web.serve import get_token_path
from tests.clients.lying_lead import RUN, LyingLead
from tests.fedhealth.web.browser import Browser
from tests.guide import DOCS

ROOT, PASSPHRASE = DOCS.parent, "four random words here"
STEP = re.compile(r"(?P<text>.*?)<!-- test: (?P<act>.+?) -->", re.S)


def list_steps():
    """Return the acts of the section, and the texts that the page then shows."""
    page = (DOCS / "for-data-protection-officers.md").read_text("utf-8")
    section = page.partition("## From a study to its record, on the page")[2].partition("\n## ")[0]
    steps = section[section.index("\n1. ") :]
    quoted = ((found["act"], re.findall(r"`([^`]+)`", found["text"])) for found in STEP.finditer(steps))
    return [(act, [text for text in texts if not text.startswith("fedhealth ")]) for act, texts in quoted]


class Officer:
    """A person with a browser, at a hospital that has received a study; the lead acts between the steps."""

    def __init__(self, root, data, port):
        self.lead = LyingLead(root, data, study={})
        self.home, self.browser = self.lead.home, Browser(port)
        self.lead.study = self.lead.publish(name="pneumonia").digest
        self.path = f"/studies/{self.lead.study}"
        AuditLog(self.home.audit).write("kit installed")
        set_passphrase(self.home, PASSPHRASE)

    def sign_in(self):
        self.browser.sign_in(json.loads(get_token_path(self.home).read_text())["decide"])
        return self.open("/")

    def open_the_study(self):
        return self.open("/studies") + self.open(self.path)

    def examine(self):
        before = self.open(self.path)
        return before + self.send("examine")

    def approve(self):
        self.lead_gets_no_answer()
        return self.open(self.path) + self.send("approve", note="as agreed")

    def the_lead_runs_the_study(self):
        order = json.loads(self.lead.sign().dumps())
        AuditLog(self.home.audit).write("accepted", run=RUN, digest=self.lead.digest, order=order, plaintext=False)
        assert not self.lead.handshake()
        assert not self.lead.ask(TRAIN).has_error()
        return self.open("/runs")

    def open_the_record(self):
        return self.open(f"/runs/{RUN}")

    def open_the_budget(self):
        return self.open("/budget")

    def withdraw(self):
        return self.open(self.path) + self.send("withdraw", note="the permit has ended", reason="permit")

    def the_lead_asks_again(self):
        self.lead_gets_no_answer()
        assert self.lead.ask(EVALUATE, self.lead.directive(EVALUATE, exchange=2)).has_error()
        return self.open(f"/runs/{RUN}")

    def open_the_audit_log(self):
        return self.open("/audit")

    def pause(self):
        form = self.browser.get("/").forms["/pause"]
        before = self.open("/")
        assert self.browser.post("/pause", form=form, passphrase=PASSPHRASE).status == 303
        return before + self.open("/")

    def lead_gets_no_answer(self):
        get_job_cache.cache_clear()
        assert self.lead.handshake()

    def open(self, path):
        """Return the text of a page as a person reads it."""
        answer = self.browser.get(path)
        assert answer.status == 200, answer.body
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.body)).split())

    def send(self, action, **fields):
        """Send a form of the study's page; return the text of the page that follows."""
        page = self.browser.get(self.path)
        verdict = re.search(r'name="verdict" value="([0-9a-f]*)"', page.body)
        about = {"person": "Dr. Ada", "passphrase": PASSPHRASE, "verdict": verdict[1] if verdict else "", **fields}
        answer = self.browser.post(f"{self.path}/{action}", form=page.forms[f"{self.path}/{action}"], **about)
        assert answer.status == 303, answer.body
        return self.open(self.path)


@pytest.fixture(name="officer")
def officer_(tmp_path, good_hospitals, monkeypatch):
    """The person, with the page that IT has started."""
    monkeypatch.setattr(identity, "_SHARED_MEMORY", tmp_path)
    get_job_cache.cache_clear()
    [port] = find_free_ports()[:1]
    officer = Officer(tmp_path, good_hospitals, port)
    command = [sys.executable, "-m", "fedhealth.cli.main", "site", "web", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FEDHEALTH_HOME": str(officer.home.path)}
    with (tmp_path / "web.log").open("wb") as log:
        page = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_for_page(page, port, tmp_path / "web.log")
        yield officer
    finally:
        page.terminate()
        page.wait(30)


def wait_for_page(page: subprocess.Popen, port: int, log: Path) -> None:
    """Return when the page can be opened."""
    ends = time.monotonic() + 120
    while True:
        assert page.poll() is None, log.read_text()
        assert time.monotonic() < ends
        try:
            with closing(create_connection(("127.0.0.1", port), timeout=1)):
                return
        except OSError:
            time.sleep(0.1)


def test_the_steps_show_what_the_guide_quotes(officer):
    steps = list_steps()
    assert len(steps) == 11
    for act, quoted in steps:
        shown = getattr(officer, act.replace(" ", "_"))()
        assert quoted, act
        assert [text for text in quoted if text not in shown] == [], f"{act}: {shown}"
    assert "epsilon" in officer.open(f"/runs/{RUN}").partition("Privacy booked")[2][:80]
