"""A hospital's record of a run: the numbers of log and ledger, for a person, and no patient in it."""

import csv
import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from clients.app import get_job_cache
from fedhealth.cli.main import main
from fedhealth.cli.site_runs_output import _format_csv
from fedhealth.errors import ConfigError, TrustError
from fedhealth.privacy.accounting.spending import iter_run_spending
from fedhealth.protocol.messages import EVALUATE, HANDSHAKE, TRAIN
from fedhealth.site import run_history
from fedhealth.site.audit_log import AuditLog, verify_log
from fedhealth.site.run_history import find_site_run, list_site_runs
from fedhealth.site.run_page import render_run_record
from fedhealth.site.run_text import build_processing_entry, describe_run
from fedhealth.site.sign_register import verify_register
from tests.clients.lying_lead import RUN, LyingLead


@pytest.fixture(scope="module", name="lead")
def lead_(tmp_path_factory, site_writer):
    """A hospital that approved a study, joined its run, trained, joined with new keys and evaluated; the run ended."""
    root = tmp_path_factory.mktemp("record")
    site_writer(root / "data", "north", patients=24)
    get_job_cache.cache_clear()
    lead = LyingLead(root, root / "data", study={"purpose": "<b>whom</b> to watch"})
    log = AuditLog(lead.home.audit)
    log.write("kit installed")
    order = json.loads(lead.sign().dumps())
    log.write("accepted", run=RUN, digest=lead.digest, order=order, signature="00", plaintext=False)
    assert not lead.handshake()
    assert not lead.ask(TRAIN).has_error()
    lead.renew_keys()
    assert not lead.ask(EVALUATE, lead.directive(EVALUATE, exchange=2)).has_error()
    log.write("ended", run=RUN, by="lead")
    return lead


@pytest.fixture(name="command")
def command_(lead, monkeypatch, capfd):
    """`command(*arguments)`: exit code and output of `fedhealth site runs`."""

    def call(*arguments):
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setenv("FEDHEALTH_HOME", str(lead.home.path))
        monkeypatch.setattr("sys.argv", ["fedhealth", "site", "runs", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out + err

    return call


def test_the_record_has_every_number_of_log_and_ledger(lead):
    [record] = list_site_runs(lead.home)
    entries = verify_log(lead.home.audit)
    left = [entry for entry in entries if entry["event"] == "left"]
    assert [(each.kind, each.bytes, each.sha256) for each in record.sent] == [
        (entry["kind"], entry["bytes"], entry["sha256"]) for entry in left
    ]
    assert record.bytes_sent == sum(entry["bytes"] for entry in left)
    assert record.requests == {HANDSHAKE: 2, TRAIN: 1, EVALUATE: 1}
    assert record.spending == tuple(iter_run_spending(lead.home.path))
    assert record.spending[0].epsilon > 0
    assert {each.release for each in record.sent if each.release} == {
        entry["release"] for entry in left if entry.get("release")
    }
    assert (record.run, record.outcome, record.study.digest) == (RUN, "ended by lead", lead.study)
    assert record.order["overrides"] == list(lead.words)
    [data] = record.data
    assert (data.dataset, data.patients) == ("tiny-2026", 20)  # of 24
    assert [(each.decision, each.person) for each in record.decisions] == [("approved", "Dr. Noor")]


def test_a_person_can_read_it(command, tmp_path):
    code, shown = command("show", RUN[:4], "--to", tmp_path / "record.html")
    assert code == 0
    for text in (
        "crp version 1: CRP and the course",
        "EK 12/2026",
        "by Dr. Noor, 20",
        "tiny-2026, at least 20 patients",
        "for each patient, noise multiplier",
        "2 to join, 1 to train, 1 to evaluate",
        "ended by the lead",
    ):
        assert text in shown
    page = (tmp_path / "record.html").read_text()
    assert "&lt;b&gt;whom&lt;/b&gt; to watch" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert command("list")[1].count(RUN) == 1


def test_programs_can_read_it(command, lead):
    code, shown = command("show", RUN, "--json")
    found = json.loads(shown)
    assert code == 0
    assert found["study"] == {"name": "crp", "version": 1, "digest": lead.study}
    assert found["bytes_sent"] == find_site_run(lead.home, RUN).bytes_sent
    assert found["spending"][0]["epsilon"] > 0
    assert [each["run"] for each in json.loads(command("list", "--json")[1])] == [RUN]


def test_no_patient_is_in_it(command, lead, tmp_path):
    page = render_run_record(find_site_run(lead.home, RUN), "charite", "0" * 64)
    assert command("export", tmp_path / "register.csv")[0] == 0
    for text in (page, command("show", RUN, "--json")[1], (tmp_path / "register.csv").read_text()):
        assert "north-" not in text  # the patients' ids
        assert "oxygen" not in text  # their notes
        assert str(lead.data) not in text


def test_the_register_is_signed_and_names_what_article_30_asks_for(command, lead, tmp_path):
    file = tmp_path / "register.json"
    assert command("export", file)[0] == 0
    identity = lead.home.load_identity_key().public_key().public_bytes_raw()
    [entry] = verify_register(file.read_bytes(), identity)
    assert entry["controller"] == "charite"
    assert entry["purpose"] == "<b>whom</b> to watch"
    assert entry["data subjects"] == "patients of tiny-2026 (at least 20)"
    assert entry["categories of data"] == "clinical variables (crp, ldh); labels (stable, severe)"
    assert entry["recipients"].startswith("the lead: sums over the hospitals, not this hospital's own replies")
    assert "models made of them: " in entry["recipients"]
    assert "member-01" in entry["recipients"]
    assert f"state/runs/{RUN}: until this hospital deletes them" in entry["erasure"]
    assert "epsilon" in entry["safeguards"]
    for damaged in (file.read_bytes().replace(b"charite", b"charitf"), b"{}", b"[]", b"\xff"):
        with pytest.raises(TrustError):
            verify_register(damaged, identity)
    command("export", tmp_path / "register.csv")
    assert list(csv.DictReader(io.StringIO((tmp_path / "register.csv").read_text()))) == [entry]


@pytest.mark.parametrize(
    ("plaintext", "said"), [(True, "this hospital's own updates and statistics"), (None, "not recorded whether")]
)
def test_the_register_says_what_the_lead_could_read(lead, plaintext, said):
    record = replace(find_site_run(lead.home, RUN), is_plaintext=plaintext)
    assert said in build_processing_entry(record, "charite")["recipients"]
    assert said in dict(describe_run(record))["The lead reads"]


def test_two_states_of_one_data_set_are_told_apart(lead):
    record = find_site_run(lead.home, RUN)
    [data] = record.data
    other = replace(record, data=(data, replace(data, digest="ab" * 32)))
    assert build_processing_entry(other, "charite")["data subjects"] == (
        f"patients of tiny-2026 (at least 20, digest {data.digest}), tiny-2026 (at least 20, digest {'ab' * 32})"
    )


def test_a_clock_that_was_set_back_hides_no_approval(lead, monkeypatch):
    real = list(verify_log(lead.home.audit))
    moved = [{**entry, "time": entry["time"] - (9e5 if entry["event"] != "study approved" else 0)} for entry in real]
    monkeypatch.setattr(run_history, "verify_log", lambda path: tuple(moved))
    [record] = list_site_runs(lead.home)
    assert [(each.decision, each.person) for each in record.decisions] == [("approved", "Dr. Noor")]
    moved[-1] = {**moved[-1], "time": 0.0}
    [record] = list_site_runs(lead.home)
    assert dict(describe_run(record))["Time"].endswith("(this machine's clock was set back meanwhile)")


def test_a_decision_after_the_run_is_not_its_own(lead, monkeypatch):
    real = list(verify_log(lead.home.audit))
    [approved] = [entry for entry in real if entry["event"] == "study approved"]
    later = {**approved, "number": len(real) + 1, "time": 0.0}
    monkeypatch.setattr(run_history, "verify_log", lambda path: (*real, later))
    [record] = list_site_runs(lead.home)
    assert len(record.decisions) == 1


def test_a_run_that_is_not_known_and_a_file_that_cannot_be_written(command, tmp_path):
    code, shown = command("show", "no-such-run")
    assert (code, "No run here begins with 'no-such-run'" in shown) == (ConfigError.exit_code, True)
    assert command("show", "")[0] == ConfigError.exit_code
    assert command("show", RUN, "--to", tmp_path / "record.txt")[0] == ConfigError.exit_code
    assert command("export", tmp_path / "nowhere" / "register.json")[0] == ConfigError.exit_code


def test_a_booked_run_that_the_log_does_not_know_is_named(lead, command, monkeypatch):
    monkeypatch.setattr(run_history, "verify_log", lambda path: [{"event": "recovered", "time": 0.0, "run": RUN}])
    code, shown = command("list")
    assert code == 0
    assert "The audit log names no run." in shown
    assert f"WARNING: run {RUN} has bookings in a privacy ledger" in shown.replace("\n", " ")
    assert "recovered on 1970-01-01" in shown


def test_an_id_that_begins_another_one_is_found(lead, monkeypatch):
    records = [SimpleNamespace(run="abcdefgh"), SimpleNamespace(run="abcdefgh0")]
    monkeypatch.setattr(run_history, "list_site_runs", lambda home: records)
    assert run_history.find_site_run(lead.home, "abcdefgh") is records[0]
    with pytest.raises(ConfigError, match="More than one run"):
        run_history.find_site_run(lead.home, "abc")


def test_no_cell_of_the_register_is_a_formula():
    rows = list(csv.reader(io.StringIO(_format_csv([{"purpose": "=1+1", "permit": "-2", "run": "a"}]).decode())))
    assert rows[1] == ["'=1+1", "'-2", "a"]


def test_an_edited_log_gives_no_record(lead, command):
    text = lead.home.audit.read_text()
    lead.home.audit.write_text(text.replace("tiny-2026", "tiny-2025", 1))
    try:
        assert command("list")[0] == TrustError.exit_code
    finally:
        lead.home.audit.write_text(text)


def test_a_declined_run_says_why(tmp_path, good_hospitals):
    lead = LyingLead(tmp_path, good_hospitals, limits="min_sites: 9", study=None)
    assert lead.handshake()
    [record] = list_site_runs(lead.home)
    assert record.outcome == "declined"
    assert "9" in record.declined[0]
    assert not record.data
    assert not record.spending
