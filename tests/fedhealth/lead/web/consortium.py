"""A lead with three members, two of them known to its server, a study, a run that is working and one that has ended."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from fedhealth.cli import lead_web
from fedhealth.consortium.research_study import sign_study
from fedhealth.flower.server.control_client import RegisteredNode
from fedhealth.flower.server.site_contacts import SiteContacts
from fedhealth.lead import site_overview
from fedhealth.lead.job_store import save_job
from fedhealth.lead.project import Project
from fedhealth.lead.publish_study import get_study_path
from fedhealth.lead.web.pages import build_lead_app
from fedhealth.lead.web.serve import get_token_path
from fedhealth.protocol.compatibility import compute_shared_digest
from fedhealth.protocol.job import Job
from fedhealth.protocol.site_report import SiteReport
from fedhealth.protocol.study_answer import ReportedAnswer, StudyAnswer
from fedhealth.utils.private_files import load_signing_key
from fedhealth.web import refusal_log
from fedhealth.web.sessions import Role, SessionStore, make_tokens
from tests.clients.lying_lead import MODEL, PRIVATE
from tests.clients.studies import make_study
from tests.conftest import begun
from tests.fedhealth.run_writer import RunWriter, interval
from tests.fedhealth.site.trust import SITES, Consortium
from tests.fedhealth.web.browser import serve
from tests.fedhealth.web.place import WebPlace

CHECKED = 1_700_000_000
ENDED, WORKING = "0a1b2c", "abc123"


class Control(SimpleNamespace):
    """A stand-in for the control API of the lead's server."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def list_nodes(self):
        return self.nodes


class LeadPlace(WebPlace):
    """A lead and its page."""

    side, highest, secrets = "lead", Role.read, ("crp", *SITES)
    pages = ("/studies", "/studies/crp", "/runs", "/budget", f"/runs/{ENDED}", f"/runs/{ENDED}/report")

    def __init__(self, root):
        self.consortium = Consortium(root)
        self.home = self.consortium.lead
        super().__init__(make_tokens(is_read_only=True), self.home.web_log)
        self.token_file = get_token_path(self.home)
        self.home.project.write_bytes(Project("chest", "lead.example:9092").dumps())
        self.add_study()
        self.add_contacts()
        self.ended, self.working = self.add_ended_run(), begun(root / "working", WORKING)
        for run, folder in ((ENDED, self.ended), (WORKING, self.working.path)):
            save_job(self.home, Job(run, (), "", str(folder)))

    def add_study(self):
        """Publish two versions of a study."""
        words = (*MODEL, "data.name=tiny", f"data.sites=[{','.join(SITES)}]", "secagg=on", *PRIVATE)
        key = load_signing_key(self.home.consortium_key)
        self.home.studies.mkdir()
        for version in (1, 2):
            self.study = make_study(words, version, title=f"<script>{version}</script>")
            get_study_path(self.home, self.study).write_bytes(sign_study(self.study, key).dumps())
        (self.home.studies / "crp.runs.json").write_text(json.dumps([ENDED]))

    def add_contacts(self):
        """The first member fits and has approved the study; the second has an old release."""
        answer = ReportedAnswer.build(self.study.digest, StudyAnswer.approved)
        contacts = SiteContacts(self.home.contacts)
        contacts.record(10, SiteReport("0.1.0", compute_shared_digest(), 1, CHECKED, "WARN", (answer,)).dumps())
        contacts.record(11, SiteReport("0.9.0", compute_shared_digest(), 1).dumps())

    def add_ended_run(self):
        """A completed private run that knows what its hospitals gain, with its report."""
        writer = RunWriter(self.home.runs / "ended")
        writer.info["state"] = "completed"
        writer.make_private(4)
        gain = {"alone": interval(0.8), "shared": interval(0.75), "shared_gain": interval(-0.05)}
        writer.comparison["sites"] = [{"site": "A", **gain}]
        folder = writer.write()
        (folder / "report.html").write_text("<h1>the report</h1><script>window.ran = 1</script>")
        return folder

    def make_control(self):
        """Return the control API with the nodes that have connected."""
        keys = [home.load_node_public_key() for home in self.consortium.homes.values()]
        return Control(nodes=[RegisteredNode(10 + number, key, "online", "") for number, key in enumerate(keys[:2])])

    def build_app(self, port):
        """Return the page."""
        return build_lead_app(self.home, SessionStore(self.side, self.tokens), port)

    def serve_by_command(self, port):
        """Do what the command does."""
        lead_web.run_lead_web(port, self.home.path)


@contextmanager
def serve_lead(root):
    """Serve the page of a lead while one of its runs is working."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refusal_log, "_MOST_ENTRIES", 10_000)
        place = LeadPlace(root)
        patch.setattr(site_overview, "connect_control", lambda home: place.make_control())
        with place.working.lock(), serve(place.build_app) as place.port:
            yield place
