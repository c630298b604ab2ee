"""What the lead's people see on its page is what the lead's commands tell; nothing there can be changed."""

import json
import os
import re
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from fedhealth.errors import ConfigError, StartRefusedError
from fedhealth.lead import site_overview
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import save_job
from fedhealth.lead.site_overview import describe_problems, list_sites
from fedhealth.lead.web import pages
from fedhealth.lead.web.serve import serve_lead_pages
from fedhealth.protocol.job import Job
from fedhealth.runs.load_record import load_run_record
from fedhealth.utils.plain_files import open_plain_file
from fedhealth.utils.time_text import format_time
from fedhealth.web import serve as serve_module
from fedhealth.web.refusal_log import PageRefusal
from fedhealth.web.sessions import Role
from tests.fedhealth.lead.web.consortium import CHECKED, ENDED, WORKING
from tests.fedhealth.site.trust import SITES
from tests.fedhealth.web.browser import Browser

MENU = ("/", "/studies", "/runs", "/budget")


@pytest.fixture(name="browser")
def browser_(place):
    """Somebody who has signed in."""
    return place.browse(Role.read)


def test_every_page_can_be_read_without_a_script_and_has_no_form_but_to_sign_out(place, browser):
    start = browser.get("/").body
    for path in (*MENU, "/studies/crp", f"/runs/{ENDED}", f"/runs/{WORKING}"):
        assert path not in MENU or f'<a href="{path}">' in start
        answer = browser.get(path)
        assert answer.status == 200, answer.body
        assert "<script" not in answer.body
        assert "http" not in answer.body.replace(browser.origin, "")
        assert set(answer.forms) == {"/sign-out"}
        assert answer.body.count("<form") == 1


def test_members_are_those_of_lead_sites(place, browser):
    body = browser.get("/").body
    for site in list_sites(place.home):
        assert f'<th scope="row">{site.site}</th><td>{site.state}</td>' in body
        for line in describe_problems(site).splitlines():
            assert line in body
    assert f"WARN, {format_time(CHECKED)}" in body
    assert "it has release 0.9.0" in body
    assert place.consortium.membership().fingerprint in body


def test_members_without_the_server_are_named(browser, monkeypatch):
    def fail(home):
        raise ConfigError("The server is not running.", "Run `fedhealth lead serve`.")

    monkeypatch.setattr(site_overview, "connect_control", fail)
    body = browser.get("/").body
    assert "Warning: The server is not running." in body
    assert all(site in body for site in SITES)
    assert "Only the answers to runs are shown" in browser.get("/studies").body


def test_a_study_shows_its_answers_runs_and_changes(browser):
    assert "1 of 1" in browser.get("/studies").body
    body = browser.get("/studies/crp").body
    assert "Compared with crp version 1:" in body
    assert '<th scope="row">charite</th><td>approved' in body
    assert '<th scope="row">klinikum</th><td>has not answered' in body
    assert f'<a href="/runs/{ENDED}">' in body


def test_a_run_that_works_shows_its_round_and_whom_it_waits_for(place, browser):
    assert f'<a href="/runs/{WORKING}">' in browser.get("/runs").body
    body = browser.get(f"/runs/{WORKING}").body
    assert "running, training" in body
    assert "0 of 3 completed" in body
    assert '<th scope="row">Waits for</th><td>south</td>' in body
    place.working.append_event("waiting", missing=["south"])
    body = browser.get(f"/runs/{WORKING}").body
    assert "waiting, training" in body
    assert "Ask south to run" in body


def test_a_run_that_has_ended_shows_gains_and_its_report(place, browser):
    body = browser.get(f"/runs/{ENDED}").body
    (gain,) = load_run_record(place.ended).comparison.sites
    assert f"<td>{gain.gain.value:.3f} [{gain.gain.low:.3f}, {gain.gain.high:.3f}]</td><td>not known</td>" in body
    assert f'<a href="/runs/{ENDED}/report">' in body
    report = browser.get(f"/runs/{ENDED}/report")
    assert report.body == (place.ended / "report.html").read_text()


def test_a_large_report_is_sent_in_parts(place, browser, monkeypatch):
    path = place.ended / "report.html"
    before, largest = path.read_text(), 0
    path.write_text("<p>" + "row " * 500_000)

    @contextmanager
    def open_report(path):
        with open_plain_file(path) as file:

            def read(size):
                nonlocal largest
                largest = max(largest, size)
                return file.read(size)

            yield SimpleNamespace(read=read)

    monkeypatch.setattr(pages, "open_plain_file", open_report)
    try:
        assert browser.get(f"/runs/{ENDED}/report").body.endswith("row " * 500_000)
        assert 0 < largest < 1_000_000
    finally:
        path.write_text(before)


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"\xff{"), os.mkfifo])
def test_a_damaged_order_is_named_and_hides_no_run(place, browser, make):
    path = place.home.runs / "x1.json"
    make(path)
    try:
        body = browser.get("/runs").body
        assert f"{path} is damaged" in body
        assert ENDED in body
        assert browser.get("/budget").status == browser.get(f"/runs/{ENDED}").status == 200
    finally:
        path.unlink()


@pytest.mark.parametrize("folder", ["a" * 5000, "a/" * 5000, "a\0b", "missing"])
def test_a_run_whose_folder_cannot_be_is_named_and_hides_no_other(place, browser, folder):
    save_job(place.home, Job("gone", (), "", f"/{folder}"))
    try:
        assert [browser.get(page).status for page in MENU] == [200] * len(MENU)
        assert re.search('/runs/gone">gone</a></th><td>its folder is gone', browser.get("/runs").body)
        assert browser.get("/runs/gone").status == 404
    finally:
        (place.home.runs / "gone.json").unlink()


@pytest.mark.parametrize("content", ["3", "[1]", "data: 7", "privacy: 5", "privacy: {epsilon: x}", "data: {sites: 5}"])
def test_damaged_settings_of_a_run_are_named_and_hide_no_other(place, browser, content):
    path = place.ended / "config.yaml"
    before = path.read_bytes()
    path.write_text(content)
    try:
        assert [browser.get(page).status for page in MENU] == [200] * len(MENU)
        answer = browser.get(f"/runs/{ENDED}")
        assert answer.status == 409
        assert f"{path} is damaged" in answer.body
    finally:
        path.write_bytes(before)


def test_a_deployed_run_without_settings_hides_no_other(place, browser):
    info = place.working.path / "run.json"
    before = info.read_bytes()
    place.working.update_info(flower_run="7")
    try:
        assert browser.get("/runs").status == browser.get(f"/runs/{WORKING}").status == 200
    finally:
        info.write_bytes(before)


@pytest.mark.parametrize("content", [b"\xff", b"[1]", b'{"a": 1}'])
def test_a_damaged_list_of_a_studys_runs_hides_no_other_study(place, browser, content):
    path = place.home.studies / "crp.runs.json"
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        for page in ("/studies", "/budget"):
            answer = browser.get(page)
            assert answer.status == 200
            assert f"{path} is damaged" in answer.body
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("events.jsonl", '{"event": "handshake"}\n'),
        ("events.jsonl", '{"event": "started", "rounds": "x", "completed": null}\n'),
        ("events.jsonl", '{"event": "site_answered", "site": "A", "seconds": "x", "sent": 1, "received": 2}\n'),
        ("events.jsonl", '{"event": "site_answered", "site": "A", "seconds": 1, "sent": "x", "received": 2}\n'),
        ("events.jsonl", '{"event": "strategy", "sites": [1, null]}\n'),
        ("events.jsonl", '{"event": "waiting", "missing": [1, null]}\n'),
        ("events.jsonl", '{"event": "x", "time": NaN}\n'),
        ("events.jsonl", '{"event": "x", "time": 1e308}\n'),
        ("events.jsonl", '{"event": "round_started", "time": 1.0, "round": 1, "sites": 5}\n'),
        ("comparison.json", "[" * 100_000),
    ],
)
def test_a_damaged_run_hides_no_other(place, browser, name, content):
    path = place.ended / name
    before = path.read_bytes() if path.exists() else None
    path.write_text((before.decode() if before and name == "events.jsonl" else "") + content)
    try:
        assert [browser.get(page).status for page in MENU] == [200] * len(MENU)
        assert WORKING in browser.get("/runs").body
        assert browser.get(f"/runs/{ENDED}").status in (200, 409)
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def test_what_runs_may_spend_is_what_was_promised(browser):
    body = browser.get("/budget").body
    assert "epsilon 4" in body
    assert "epsilon 8 at delta" in body
    assert "no differential privacy" in body  # the run that works
    assert "which only the hospital reads" in body


def test_the_report_has_a_policy_of_its_own_without_scripts(browser):
    headers = browser.get(f"/runs/{ENDED}/report").headers
    policy = headers["content-security-policy"]
    assert "script" not in policy
    assert policy.startswith("default-src 'none'")
    assert policy.endswith("sandbox")
    assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path", ["/runs/abc", "/runs/ended", f"/runs/{WORKING}/report", "/studies/x", "/runs/x/report"]
)
def test_what_is_not_there_is_refused(browser, refused, path):
    """A run is found by its id among the jobs; the name of its folder is not one."""
    refused(browser.get(path), 404, PageRefusal.unknown)


def test_nothing_can_be_changed(place, browser, refused):
    form = browser.get("/").forms["/sign-out"]
    for path in ("/", "/studies", "/studies/crp", f"/runs/{ENDED}", "/pause", f"/runs/{ENDED}/stop"):
        refused(browser.post(path, form=form), 404, PageRefusal.unknown)
    assert set(place.tokens) == {Role.read}


def test_the_page_of_one_side_does_not_take_the_cookie_of_the_other(place, browser, refused):
    other = Browser(place.port, "site")
    other.cookie = browser.cookie
    refused(other.get("/runs"), 403, PageRefusal.session)


def test_there_is_no_page_without_a_consortium(tmp_path):
    with pytest.raises(ConfigError, match="There is no consortium"):
        serve_lead_pages(LeadHome(tmp_path), 8766)


def test_a_second_page_is_refused_and_the_first_keeps_its_token(place, monkeypatch):
    class Server:
        def __init__(self, config):
            pass

        def run(self, sockets):
            before = json.loads(place.token_file.read_text())
            with pytest.raises(StartRefusedError, match="is served already"):
                serve_lead_pages(place.home, 0)
            assert json.loads(place.token_file.read_text()) == before

    monkeypatch.setattr(serve_module.uvicorn, "Server", Server)
    serve_lead_pages(place.home, 0)
    assert not place.token_file.exists()


def test_who_has_not_signed_in_is_sent_to_do_so(place):
    answer = place.browse().get("/")
    assert (answer.status, answer.headers["location"]) == (303, "/sign-in")
    assert "fedhealth lead web" in place.browse().get("/sign-in").body
