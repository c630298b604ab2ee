"""A hospital with an approved version of a study and a new one to decide, and its page."""

from contextlib import contextmanager

import pytest

from fedhealth.cli import site_web
from fedhealth.consortium import identity
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.web import passphrase
from fedhealth.site.web.pages import build_web_app
from fedhealth.web import refusal_log
from fedhealth.web.serve import TOKENS_FILE
from fedhealth.web.sessions import Role, SessionStore, make_tokens
from tests.clients.lying_lead import MODEL, POLICY, PRIVATE, VICTIM, name_members
from tests.clients.studies import approve, make_study, send_study
from tests.fedhealth.site.trust import Consortium
from tests.fedhealth.web.browser import serve
from tests.fedhealth.web.place import WebPlace

PASSPHRASE = "four random words here"


class HospitalPlace(WebPlace):
    """A hospital, its studies by version, and its page."""

    side, highest, secrets = "site", Role.decide, ("crp", VICTIM)
    pages = ("/budget", "/studies", "/data", "/runs", "/audit", "/runs/abc")

    def __init__(self, root, data):
        sites = name_members(4)
        self.consortium = Consortium(root / "consortium", sites)
        self.home = self.consortium.homes[VICTIM]
        super().__init__(make_tokens(is_read_only=False), self.home.audit)
        self.token_file = self.home.daemon_folder / TOKENS_FILE
        self.home.kit.mkdir(exist_ok=True)
        self.home.membership.write_bytes(self.consortium.lead.membership.read_bytes())
        about = {"root": data / "north", "cache": root / "cache", "limits": "", "unattended": "false"}
        self.home.policy.write_text(POLICY.format(**about))
        words = (*MODEL, "data.name=tiny", f"data.sites=[{','.join(sites)}]", "secagg=on", *PRIVATE)
        first, second = (make_study(words, version, title=f"<script>{version}</script>") for version in (1, 2))
        AuditLog(self.home.audit).write("kit installed")
        for study in (first, second):
            send_study(self.consortium, self.home, study)
            if study is first:
                approve(self.home, self.home.studies / f"{study.digest}.study.json")
        self.approved, self.waiting = first.digest, second.digest

    @property
    def shown(self):
        """The pages, and that of a study to decide."""
        return (*super().shown, f"/studies/{self.waiting}")

    def build_app(self, port):
        """Return the page."""
        return build_web_app(self.home, SessionStore(self.side, self.tokens), port)

    def serve_by_command(self, port):
        """Do what the command does."""
        site_web.run_web(port, is_read_only=False, folder=self.home.path)


@contextmanager
def serve_hospital(root, data):
    """Serve the page of a hospital; a test leaves the decisions as they were."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_SHARED_MEMORY", root)
        patch.setattr(passphrase, "_COST", 2**10)
        patch.setattr(refusal_log, "_MOST_ENTRIES", 10_000)
        place = HospitalPlace(root, data)
        passphrase.set_passphrase(place.home, PASSPHRASE)
        with serve(place.build_app) as place.port:
            yield place
