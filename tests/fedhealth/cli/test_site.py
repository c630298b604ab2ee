"""`fedhealth site budget`: what was spent, and what happens when a ledger was touched."""

import time

import pytest

from fedhealth.cli.main import main
from fedhealth.errors import ConfigError, PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon
from fedhealth.privacy.accounting.ledger import EpsilonLimits, Ledger, read_ledger_digest, verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.reservations import RunCost
from fedhealth.privacy.accounting.spending import iter_run_spending

EVENT = PrivacyEvent(2.0, 0.1, 10)
DELTA = 1e-4


@pytest.fixture
def site(tmp_path):
    """A site's folder with two runs on one data set, the second one stopped by its budget."""
    folder = tmp_path / "sites" / "north"
    with Ledger.open(get_ledger_path(folder, "chest")) as ledger:
        for number in (1, 2):
            ledger.book("first", number, "patient", EVENT, EpsilonLimits(DELTA))
        ledger.book("second", 1, "patient", EVENT, EpsilonLimits(DELTA))
        with pytest.raises(PrivacyError, match="would exceed"):
            ledger.book("second", 2, "patient", EVENT, EpsilonLimits(DELTA, run_epsilon=0.5))
    return folder


@pytest.fixture
def budget(monkeypatch, capfd):
    """`budget(*words)`: exit code and output of `fedhealth site budget`."""

    def call(*words):
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr("sys.argv", ["fedhealth", "site", "budget", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capfd.readouterr()
        return stopped.value.code, shown.out + shown.err

    return call


def test_every_run_and_the_sum_are_shown(site, budget):
    code, shown = budget(site, "--delta", DELTA)
    assert code == 0
    with Ledger.open(get_ledger_path(site, "chest")) as ledger:
        assert f"{ledger.compute_spent_epsilon(DELTA, 'first'):.3f}" in shown
        assert f"{ledger.compute_spent_epsilon(DELTA, 'second'):.3f}" in shown
        assert f"north, chest: epsilon {ledger.compute_spent_epsilon(DELTA):.3f} in total at delta 0.0001" in shown
    assert "digest" not in shown


def test_a_run_directory_shows_all_its_sites(site, budget):
    with Ledger.open(get_ledger_path(site.parent / "south", "chest")) as ledger:
        ledger.book("first", 1, "patient", EVENT, EpsilonLimits(DELTA))
    code, shown = budget(site.parents[1])
    assert code == 0
    assert "north/chest" in shown
    assert "south/chest" in shown


def test_verify_prints_length_and_digest(site, budget):
    path = get_ledger_path(site, "chest")
    code, shown = budget(site, "--verify")
    assert code == 0
    assert f"{len(verify_ledger(path))} entries, hash chain intact, digest {read_ledger_digest(path)}" in shown


def test_a_touched_ledger_is_refused(site, budget):
    path = get_ledger_path(site, "chest")
    path.write_bytes(path.read_bytes().replace(b'"steps":10', b'"steps":90', 1))
    code, shown = budget(site)
    assert code == PrivacyError.exit_code
    assert "edited, cut or damaged" in shown


def test_what_is_not_there_is_said(tmp_path, budget, site):
    assert budget(tmp_path / "nowhere")[0] == ConfigError.exit_code
    empty = tmp_path / "empty"
    empty.mkdir()
    code, shown = budget(empty)
    assert code == PrivacyError.exit_code
    assert "There is no privacy ledger" in shown
    assert budget(site, "--delta", "2")[0] == ConfigError.exit_code


def test_spending_counts_what_was_declined(site):
    first, second = iter_run_spending(site, DELTA)
    assert (first.run, first.booked_count, first.declined_count, first.target) == ("first", 2, 0, None)
    assert (second.run, second.booked_count, second.declined_count) == ("second", 1, 1)
    assert first.epsilon > second.epsilon > 0
    assert first.curve[-1] == (2, first.epsilon)


def test_a_hospital_sees_its_own_without_naming_a_folder(site, budget, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    site.rename(home / "state")
    monkeypatch.setenv("FEDHEALTH_HOME", str(home))
    code, shown = budget()
    assert code == 0
    assert "here/chest" in shown


def test_what_sweeps_have_reserved_is_told_apart(site, budget):
    with Ledger.open(get_ledger_path(site, "chest")) as ledger:
        ledger.reserve(
            "sweep0000000", {"third": RunCost("patient", (EVENT,))}, time.time() + 3600, EpsilonLimits(DELTA)
        )
        spent = ledger.compute_spent_epsilon(DELTA)
    with_kept = compute_epsilon([EVENT] * 4, DELTA)
    code, shown = budget(site, "--delta", DELTA)
    assert code == 0
    spent_text = f"epsilon {spent:.3f} in total at delta 0.0001"
    assert f"{spent_text}; {with_kept:.3f} including reservations of sweeps until" in shown
    assert "third" not in shown  # it spent nothing yet
