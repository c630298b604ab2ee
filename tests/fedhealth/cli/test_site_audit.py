"""`fedhealth site audit`: verify, show, export; a touched log is refused by all three."""

import csv
import json

import pytest

from fedhealth.cli.main import main
from fedhealth.errors import ConfigError, PrivacyError, TrustError
from fedhealth.site.audit_log import AuditLog, get_log_digest, verify_export
from fedhealth.site.home import SiteHome
from tests.fedhealth.privacy.auditing.test_ledger_audit import write_ledger


@pytest.fixture(name="home")
def home_(tmp_path):
    home = SiteHome(tmp_path / "site")
    home.create()
    home.policy.write_text("name: charite\nlead: lead.example:9092\n")
    for number in range(25):
        AuditLog(home.audit, clock=lambda: 1_700_000_000.0).write("left" if number % 5 else "refused", bytes=number)
    return home


@pytest.fixture(name="audit")
def audit_(home, monkeypatch, capfd):
    """`audit(*arguments)`: exit code and output of `fedhealth site audit`."""

    def call(*arguments):
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setenv("FEDHEALTH_HOME", str(home.path))
        monkeypatch.setattr("sys.argv", ["fedhealth", "site", "audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out + err

    return call


def test_verify_counts_events_and_tells_the_digest(home, audit):
    code, shown = audit("verify")
    assert code == 0
    assert "25 entries, hash chain intact" in shown
    assert "left: 20" in shown
    assert "refused: 5" in shown
    assert get_log_digest(home.audit) in shown


def test_verify_compares_what_left_with_the_bookings(home, audit):
    ledger = home.state / "privacy" / "demo.jsonl"
    ledger.parent.mkdir(parents=True, exist_ok=True)
    write_ledger(ledger, ["a1", "b2"])
    for digest in ("a1", "b2", "a1"):  # the same words may leave twice
        AuditLog(home.audit).write("left", release=digest)
    assert "2 private releases left, each paid for by a booking" in audit("verify")[1]
    AuditLog(home.audit).write("left", release="c3")
    code, shown = audit("verify")
    assert code == PrivacyError.exit_code
    assert "1 of 3 private releases left without a booking" in shown


def test_show_tells_the_last_entries(audit):
    code, shown = audit("show", "--last", "3")
    assert code == 0
    assert [line.split()[0] for line in shown.splitlines() if "2023-11-14 22:13:20" in line] == ["23", "24", "25"]
    assert '{"bytes": 24}' in shown


def test_an_export_is_signed_by_the_site(home, audit, tmp_path):
    code, shown = audit("export", tmp_path / "log.json")
    assert code == 0
    assert get_log_digest(home.audit) in shown
    content = (tmp_path / "log.json").read_bytes()
    assert len(verify_export(content, home.load_identity_key().public_key().public_bytes_raw())) == 25
    assert json.loads(content)["site"] == "charite"


def test_an_export_for_a_spreadsheet(audit, tmp_path):
    assert audit("export", tmp_path / "log.csv")[0] == 0
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["number", "time", "event", "fields"]
    assert rows[1] == ["1", "2023-11-14 22:13:20", "refused", '{"bytes": 0}']
    assert len(rows) == 26


def test_a_file_that_cannot_be_written_is_said(audit, tmp_path):
    for path in (tmp_path / "log.txt", tmp_path / "nowhere" / "log.json"):
        assert audit("export", path)[0] == ConfigError.exit_code


def test_a_touched_log_is_refused(home, audit, tmp_path):
    home.audit.write_bytes(home.audit.read_bytes().replace(b'"bytes":3,', b'"bytes":4,'))
    for arguments in (("verify",), ("show",), ("export", tmp_path / "a.json"), ("export", tmp_path / "a.csv")):
        code, shown = audit(*arguments)
        assert code == TrustError.exit_code
        assert "edited, cut or damaged" in shown
    assert not list(tmp_path.glob("a.*"))


def test_a_log_that_was_never_begun_is_empty(home, audit):
    for path in home.audit.parent.iterdir():
        path.unlink()
    assert "0 entries" in audit("verify")[1]
    assert audit("show")[0] == 0
