"""A person without the command line sees, decides and pauses; what is shown is what the books hold."""

import json
import os
import re
import shutil
import socket
import threading
from contextlib import closing

import pytest
from typer.testing import CliRunner

from fedhealth.cli.main import app, main
from fedhealth.consortium import research_study
from fedhealth.errors import ConfigError, StartRefusedError
from fedhealth.protocol.study_answer import StudyAnswer
from fedhealth.site.audit_log import get_log_digest, verify_log
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.study_store import StudyStore
from fedhealth.site.web import decisions
from fedhealth.site.web.pages import build_web_app
from fedhealth.site.web.passphrase import PassphraseGate
from fedhealth.site.web.serve import get_token_path, serve_pages
from fedhealth.utils.hash_chain import get_head_path
from fedhealth.web import serve as serve_module
from fedhealth.web.sessions import Role, SessionStore
from tests.fedhealth.site.web.hospital import PASSPHRASE
from tests.fedhealth.web.browser import Browser, serve


@pytest.fixture(name="copy")
def copy_(place, tmp_path):
    """A copy of the hospital, to be decided on, and a browser at its page."""
    home = SiteHome(tmp_path / "home")
    shutil.copytree(place.home.path, home.path)
    with serve(lambda port: build_web_app(home, SessionStore("site", place.tokens), port)) as port:
        browser = Browser(port)
        browser.sign_in(place.tokens[Role.decide])
        yield home, browser


def test_every_page_can_be_read_without_a_script(place):
    browser = place.browse(Role.read)
    start = browser.get("/")
    assert start.status == 200
    for path in ("/", "/budget", "/studies", "/data", "/runs", "/audit"):
        assert f'<a href="{path}">' in start.body
        answer = browser.get(path)
        assert answer.status == 200, answer.body
        assert "<script" not in answer.body
        assert "http" not in answer.body.replace("https", "http").replace(browser.origin, "")
    assert "crp version 2" in start.body
    assert f"Digest: {get_log_digest(place.home.audit)}" in browser.get("/audit").body
    assert "epsilon 20" in browser.get("/budget").body
    assert "tiny-2026" in browser.get("/data").body


def test_a_study_shows_what_changed_since_the_approved_version(place):
    body = place.browse(Role.read).get(f"/studies/{place.waiting}").body
    assert "Compared with crp version 1:" in body
    assert "not decided" in body
    assert "approved by Dr. Noor" in place.browse(Role.read).get(f"/studies/{place.approved}").body


def test_a_study_is_examined_and_then_approved_with_name_reason_and_passphrase(copy, place):
    home, browser = copy
    path = f"/studies/{place.waiting}"
    forms = browser.get(path).forms
    assert f"{path}/approve" not in forms  # nobody approves what was not shown
    assert browser.post(f"{path}/examine", form=forms[f"{path}/examine"]).status == 303
    page = browser.get(path)
    assert "24 patients" in page.body
    fields = {"person": "Dr. Ada", "note": "as version 1", "passphrase": PASSPHRASE}
    another = browser.post(f"{path}/approve", form=page.forms[f"{path}/approve"], **fields, verdict="0" * 64)
    assert "was examined again meanwhile" in another.body
    page = browser.get(path)
    fields["verdict"] = re.search(r'name="verdict" value="([0-9a-f]{64})"', page.body)[1]
    assert browser.post(f"{path}/approve", form=page.forms[f"{path}/approve"], **fields).status == 303
    decision = StudyStore(home).load_decision(place.waiting)
    assert (decision.answer, decision.person, decision.note) == (StudyAnswer.approved, "Dr. Ada", "as version 1")
    last = verify_log(home.audit)[-1]
    assert (last["event"], last["person"], last["digest"]) == ("study approved", "Dr. Ada", place.waiting)
    assert set(browser.get(path).forms) == {f"{path}/withdraw", "/sign-out"}


def test_a_study_is_declined_and_an_approval_withdrawn(copy, place):
    home, browser = copy
    about = {"person": "Dr. Ada", "note": "no time", "reason": "permit", "passphrase": PASSPHRASE}
    for digest, step, answer in (
        (place.waiting, "decline", StudyAnswer.declined),
        (place.approved, "withdraw", StudyAnswer.withdrawn),
    ):
        path = f"/studies/{digest}"
        assert browser.post(f"{path}/{step}", form=browser.get(path).forms[f"{path}/{step}"], **about).status == 303
        decision = StudyStore(home).load_decision(digest)
        assert (decision.answer, decision.reason, decision.note) == (answer, "permit", "no time")


def test_pause_and_resume(copy):
    home, browser = copy
    for path, paused in (("/pause", True), ("/resume", False)):
        assert browser.post(path, form=browser.get("/").forms[path], passphrase=PASSPHRASE).status == 303
        assert DaemonState(home).is_paused is paused
        last = verify_log(home.audit)[-1]
        assert (last["event"], last["where"]) == ("paused" if paused else "resumed", "page")


def test_who_signed_in_is_logged_by_role(place):
    for role in Role:
        place.browse(role)
        last = verify_log(place.home.audit)[-1]
        assert (last["event"], last["role"]) == ("page signed in", role)
        assert not any(token in json.dumps(last) for token in place.tokens.values())


@pytest.mark.parametrize("name", ["policy", " Policy ", "\uff30\uff2f\uff2c\uff29\uff23\uff39"])
def test_nobody_is_called_like_the_policy(copy, place, name):
    home, browser = copy
    path = f"/studies/{place.waiting}"
    about = {"person": name, "note": "no time", "reason": "permit", "passphrase": PASSPHRASE}
    answer = browser.post(f"{path}/decline", form=browser.get(path).forms[f"{path}/decline"], **about)
    assert "A person cannot be called" in answer.body
    assert StudyStore(home).load_decision(place.waiting) is None
    words = ["site", "study", "decline", place.waiting, "--reason", "permit", "--by", name, "--home", str(home.path)]
    assert isinstance(CliRunner().invoke(app, words).exception, ConfigError)
    assert StudyStore(home).load_decision(place.waiting) is None


def test_a_withdrawal_does_not_wait_for_an_examination(copy, place, monkeypatch):
    home, browser = copy
    begun, goes_on = threading.Event(), threading.Event()

    def evaluate_slowly(*_):
        begun.set()
        assert goes_on.wait(60)
        raise ConfigError("The data cannot be used.", "")

    monkeypatch.setattr(decisions, "evaluate_study", evaluate_slowly)
    path = f"/studies/{place.waiting}"
    forms = [browser.get(path).forms[f"{path}/examine"] for _ in range(2)]
    waiting = threading.Thread(target=browser.post, args=(f"{path}/examine",), kwargs={"form": forms[0]})
    waiting.start()
    try:
        assert begun.wait(60)
        again = browser.post(f"{path}/examine", form=forms[1])
        assert "is being examined now" in again.body
        approved = f"/studies/{place.approved}"
        about = {"person": "Dr. Ada", "note": "no time", "reason": "permit", "passphrase": PASSPHRASE}
        form = browser.get(approved).forms[f"{approved}/withdraw"]
        assert browser.post(f"{approved}/withdraw", form=form, **about).status == 303
        assert StudyStore(home).load_decision(place.approved).answer is StudyAnswer.withdrawn
    finally:
        goes_on.set()
        waiting.join(60)
    assert not browser.get(path).forms.keys() >= {f"{path}/approve"}


def test_a_second_page_of_one_site_is_refused_and_the_first_keeps_its_tokens(copy, monkeypatch):
    home, _ = copy

    class Server:
        def __init__(self, config):
            pass

        def run(self, sockets):
            before = get_token_path(home).read_bytes()
            with pytest.raises(StartRefusedError, match="is served already"):
                serve_pages(home, find_free_port(), is_read_only=True)
            assert get_token_path(home).read_bytes() == before

    monkeypatch.setattr(serve_module.uvicorn, "Server", Server)
    serve_pages(home, find_free_port(), is_read_only=False)
    assert not get_token_path(home).exists()


def find_free_port():
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_study_is_parsed_once_for_all_requests(copy, place, monkeypatch):
    home, browser = copy
    browser.get("/studies")
    monkeypatch.setattr(research_study, "parse_model", lambda *_, **more: pytest.fail("parsed again"))
    for path in ("/", "/studies", f"/studies/{place.waiting}", "/runs"):
        assert browser.get(path).status == 200
    file = home.studies / f"{place.waiting}.study.json"
    file.write_bytes(file.read_bytes().replace(b"EK 12/2026", b"EK 99/2026"))
    monkeypatch.undo()
    assert place.waiting not in StudyStore(home).load_studies()  # what has changed is not what was read before


def test_the_runs_show_what_is_missing(copy):
    home, browser = copy
    home.audit.unlink()
    get_head_path(home.audit).unlink()
    assert "Warning: the audit log" in browser.get("/runs").body
    log = browser.get("/audit").body
    assert "does not begin with" in log or "is gone" in log
    assert "Verified" not in log


def test_a_damaged_log_is_shown_as_such(copy):
    home, browser = copy
    content = home.audit.read_text()
    home.audit.write_text(content.replace("Dr. Noor", "Dr. Evil"))
    answer = browser.get("/audit")
    assert answer.status == 409
    assert "was edited, cut or damaged" in answer.body


def test_the_passphrase_is_set_in_a_terminal(place, tmp_path, monkeypatch, capsys):
    home = SiteHome(tmp_path / "home")
    home.create()
    shutil.copy(place.home.policy, home.policy)
    monkeypatch.setattr("typer.prompt", lambda *_, **about: about["hide_input"] and "five random words for us")
    monkeypatch.setattr("sys.argv", ["fedhealth", "site", "passphrase", "--home", str(home.path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert "five random" not in capsys.readouterr().out
    PassphraseGate(home).check_passphrase("five random words for us")
    stored = json.loads((home.keys / "web-passphrase.json").read_text())
    assert set(stored) == {"salt", "cost", "hash"}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", ["status", "policy", "study", "log"])
def test_what_is_no_file_holds_no_page(copy, place, name, make):
    home, browser = copy
    path = {
        "status": home.daemon_folder / "status.json",
        "policy": home.policy,
        "study": home.studies / f"{place.waiting}.study.json",
        "log": home.audit,
    }[name]
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    answers = {page: browser.get(page) for page in ("/", "/budget", "/studies", "/data", "/runs", "/audit")}
    assert {answer.status for answer in answers.values()} <= {200, 409}
    assert answers["/"].status == answers["/studies"].status == 200
    assert "cannot be read" in answers["/audit"].body or name != "log"
    assert "cannot be read" in answers["/studies"].body or name != "study"


@pytest.mark.parametrize("content", ["", "[1, 2]", "3", "[" * 100_000, '{"state'])
def test_a_damaged_status_is_no_reason_to_show_nothing(copy, content):
    home, browser = copy
    home.daemon_folder.mkdir(exist_ok=True)
    (home.daemon_folder / "status.json").write_text(content)
    answer = browser.get("/")
    assert answer.status == 200
    assert "stopped" in answer.body


@pytest.mark.parametrize(
    "content", ["[1]", "3", "[" * 100_000, '{"cohort": 5}', '{"findings": 7}', '{"findings": [1]}']
)
def test_a_damaged_report_of_an_ingest_is_named(copy, good_hospitals, tmp_path, content):
    home, browser = copy
    shutil.copytree(good_hospitals / "north", tmp_path / "data")
    home.policy.write_text(home.policy.read_text().replace(str(good_hospitals / "north"), str(tmp_path / "data")))
    (tmp_path / "data" / "report.json").write_text(content)
    answer = browser.get("/data")
    assert answer.status == 200
    assert f"{tmp_path / 'data' / 'report.json'} cannot be read" in answer.body
