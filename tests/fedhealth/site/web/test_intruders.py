"""Attacks on what people decide on the hospital's page: each is refused, and the audit log says so in fixed words."""

import stat

import pytest

from fedhealth.site.audit_log import verify_log
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.web import passphrase
from fedhealth.site.web.passphrase import PassphraseGate, PassphraseRefusedError, get_passphrase_path, set_passphrase
from fedhealth.web.refusal_log import PageRefusal
from fedhealth.web.sessions import Role
from tests.fedhealth.site.web.hospital import PASSPHRASE


def test_replay_of_a_decision(place, refused):
    browser = place.browse(Role.decide)
    fields = {"form": browser.get("/").forms["/pause"], "passphrase": PASSPHRASE}
    assert browser.post("/pause", **fields).status == 303
    DaemonState(place.home).resume("test")
    refused(browser.post("/pause", **fields), 409, PageRefusal.form)
    assert not DaemonState(place.home).is_paused


def test_a_form_of_another_page_or_session(place, refused):
    browser, other = place.browse(Role.decide), place.browse(Role.decide)
    waiting = f"/studies/{place.waiting}/decline"
    decline = browser.get(f"/studies/{place.waiting}").forms[waiting]
    about = {"person": "Eve", "note": "x", "reason": "permit", "passphrase": PASSPHRASE}
    refused(browser.post(f"/studies/{place.approved}/withdraw", form=decline, **about), 409, PageRefusal.form)
    theirs = other.get(f"/studies/{place.waiting}").forms[waiting]
    refused(browser.post(waiting, form=theirs, **about), 409, PageRefusal.form)
    refused(browser.post(waiting, form="", **about), 409, PageRefusal.form)


@pytest.mark.parametrize("field", ["person", "note"])
def test_text_that_would_forge_a_line_or_a_header(place, field):
    browser = place.browse(Role.decide)
    path = f"/studies/{place.waiting}"
    about = {"person": "Eve", "note": "x", "reason": "permit", "passphrase": PASSPHRASE}
    about[field] = 'x\r\nSet-Cookie: a=b\n{"event": "study approved"}'
    answer = browser.post(f"{path}/decline", form=browser.get(path).forms[f"{path}/decline"], **about)
    assert answer.status == 409
    assert "set-cookie" not in answer.headers
    assert "printable" in answer.body
    assert not [e for e in verify_log(place.home.audit) if e["event"] == "study declined"]


def test_a_stolen_cookie_changes_nothing_without_the_passphrase(place, refused):
    browser = place.browse(Role.decide)
    for wrong in ("", "four random words her"):
        form = browser.get("/").forms["/pause"]
        refused(browser.post("/pause", form=form, passphrase=wrong), 409, PageRefusal.passphrase)
    assert not DaemonState(place.home).is_paused
    form = browser.get("/").forms["/pause"]
    assert browser.post("/pause", form=form, passphrase=PASSPHRASE).status == 303  # the right one ends the count
    DaemonState(place.home).resume("test")


def test_guessing_the_passphrase(tmp_path, place, monkeypatch):
    now = [0.0]
    gate = PassphraseGate(place.home, lambda: now[0])
    for _ in range(5):
        with pytest.raises(PassphraseRefusedError, match="wrong"):
            gate.check_passphrase("a wrong guess")
    with pytest.raises(PassphraseRefusedError, match="Too many"):
        gate.check_passphrase(PASSPHRASE)
    now[0] = 901.0
    gate.check_passphrase(PASSPHRASE)


def test_an_auditor_cannot_decide(place, refused):
    auditor = place.browse(Role.read)
    assert auditor.get("/audit").status == 200
    path = f"/studies/{place.waiting}"
    assert set(auditor.get(path).forms) == {"/sign-out"}
    assert set(auditor.get("/").forms) == {"/sign-out"}
    form = place.browse(Role.decide).get("/").forms["/pause"]
    refused(auditor.post("/pause", form=form, passphrase=PASSPHRASE), 403, PageRefusal.role)
    refused(auditor.post(f"{path}/decline", form=form, passphrase=PASSPHRASE), 403, PageRefusal.role)


def test_a_short_passphrase_is_refused(place):
    before = get_passphrase_path(place.home).read_bytes()
    with pytest.raises(Exception, match="fewer than"):
        set_passphrase(place.home, "short")
    assert get_passphrase_path(place.home).read_bytes() == before
    assert PASSPHRASE.encode() not in before
    assert stat.S_IMODE(get_passphrase_path(place.home).stat().st_mode) == 0o600
    assert passphrase.SHORTEST >= 12
