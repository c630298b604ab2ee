"""A hospital with an approved version of a study and a new one to decide, and its page."""

import pytest

from fedhealth.consortium import identity
from fedhealth.site.audit_log import AuditLog, verify_log
from fedhealth.site.web import passphrase, refusal_log
from fedhealth.site.web.sessions import make_tokens
from tests.clients.lying_lead import MODEL, POLICY, PRIVATE, VICTIM, name_members
from tests.clients.studies import approve, make_study, send_study
from tests.fedhealth.site.trust import Consortium
from tests.fedhealth.site.web.browser import Browser, serve

PASSPHRASE = "four random words here"


class Place:
    """A hospital, its studies by version, and its page."""

    def __init__(self, root, data):
        sites = name_members(4)
        self.consortium = Consortium(root / "consortium", sites)
        self.home = self.consortium.homes[VICTIM]
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
        self.tokens = make_tokens(is_read_only=False)
        self.port = 0

    def browse(self, role=None):
        """Return a browser, signed in for a role."""
        browser = Browser(self.port)
        if role is not None:
            browser.sign_in(self.tokens[role])
        return browser

    def list_refusals(self):
        """Return the reasons of all refusals in the audit log."""
        return [entry["reason"] for entry in verify_log(self.home.audit) if entry["event"] == "page refused"]


@pytest.fixture(name="refused")
def refused_(place):
    """`refused(answer, status, reason)`: the answer is a refusal, and only this one was logged since the last call."""
    before = len(place.list_refusals())

    def check(answer, status, reason):
        nonlocal before
        logged = place.list_refusals()
        assert (answer.status, logged[before:]) == (status, [reason])
        before = len(logged)

    return check


@pytest.fixture(scope="package", name="place")
def place_(tmp_path_factory, good_hospitals):
    """The hospital, served; a test leaves the decisions as they were."""
    root = tmp_path_factory.mktemp("web")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_SHARED_MEMORY", root)
        patch.setattr(passphrase, "_COST", 2**10)
        patch.setattr(refusal_log, "_MOST_ENTRIES", 10_000)
        place = Place(root, good_hospitals)
        passphrase.set_passphrase(place.home, PASSPHRASE)
        with serve(place.home, place.tokens) as place.port:
            yield place
