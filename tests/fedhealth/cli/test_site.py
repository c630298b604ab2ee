"""`fedhealth site budget`: what was spent, and what happens when a ledger was touched."""

import json
import time

import pytest

from fedhealth.cli.main import main
from fedhealth.cli.site_run import run_status
from fedhealth.errors import ConfigError, PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon
from fedhealth.privacy.accounting.booking import Booking
from fedhealth.privacy.accounting.ledger import Ledger, read_ledger_digest, verify_ledger
from fedhealth.privacy.accounting.ledger_entry import LIFETIME_DELTA
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.privacy.accounting.reservations import RunCost
from fedhealth.privacy.accounting.spending import iter_run_spending
from fedhealth.site.home import SiteHome
from fedhealth.site.init import init_site
from fedhealth.utils.privacy_text import format_guarantee

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
    """`budget(*arguments)`: exit code and output of `fedhealth site budget`."""

    def call(*arguments):
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr("sys.argv", ["fedhealth", "site", "budget", *map(str, arguments)])
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
        together = f"epsilon {ledger.compute_spent_epsilon(DELTA):.4g} at delta 1e-4 for each patient"
    assert f"north, chest: all runs together spent {together}, noise multiplier 2 or more" in shown
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


def test_failed_and_retried_bookings_are_counted(site, budget):
    with Ledger.open(get_ledger_path(site, "chest")) as ledger:
        booking = Booking(ledger.entries[0], (1,))
        ledger.update_booking("retry", booking, 1)
        ledger.update_booking("fail", booking, 1)
    first, second = iter_run_spending(site, DELTA)
    assert (first.booked_count, first.failed_count, first.retried_count) == (2, 1, 1)
    assert (second.failed_count, second.retried_count) == (0, 0)
    [row] = [line for line in budget(site)[1].splitlines() if "first" in line]
    assert row.split()[-4:] == ["2", "1", "1", "0"]


def test_the_status_has_the_whole_guarantee(site, monkeypatch, capfd, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    site.rename(home / "state")
    run_status(home, as_json=True)
    spent = json.loads(capfd.readouterr().out)["budgets"]["chest"]
    assert (spent["unit"], spent["delta"], spent["smallest_noise_multiplier"]) == ("patient", LIFETIME_DELTA, 2.0)
    run_status(home, as_json=False)
    text = format_guarantee(spent["epsilon"], LIFETIME_DELTA, 2.0, "patient", digits=4)
    assert f"chest: all runs together spent {text} or more" in capfd.readouterr().out


def test_programs_get_it_as_json(site, budget):
    path = get_ledger_path(site, "chest")
    with Ledger.open(path) as ledger:
        expected = ledger.compute_spent_epsilon(DELTA)
    printed = json.loads(budget(site, "--delta", DELTA, "--json")[1])
    runs = [(run["run"], run["booked_count"], run["declined_count"], run["target"]) for run in printed["runs"]]
    assert runs == [("first", 2, 0, None), ("second", 1, 1, None)]
    [dataset] = printed["datasets"]
    assert (dataset["site"], dataset["dataset"], dataset["unit"]) == ("north", "chest", "patient")
    assert dataset["epsilon"] == pytest.approx(expected)
    assert (dataset["entries"], dataset["digest"]) == (len(verify_ledger(path)), read_ledger_digest(path))


def test_another_home_is_named_as_for_every_command(site, budget, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    site.rename(home / "state")
    assert "here/chest" in budget("--home", home)[1]


def test_a_hospital_sees_its_own_without_naming_a_folder(site, budget, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    site.rename(home / "state")
    monkeypatch.setenv("FEDHEALTH_HOME", str(home))
    code, shown = budget()
    assert code == 0
    assert "here/chest" in shown


@pytest.mark.parametrize("as_json", [True, False])
def test_the_status_names_what_is_wrong_with_the_policy(tmp_path, capfd, as_json):
    """While site.yaml has a fault, every job is declined; the running site goes on and does not show it otherwise."""
    home = SiteHome(tmp_path / "home")
    init_site(home, "charite", "lead.hospital.test:443")
    run_status(home.path, as_json)
    assert "site.yaml" not in capfd.readouterr().out
    home.policy.write_text(home.policy.read_text().replace("  units:", "\tunits:"))
    run_status(home.path, as_json)
    shown = capfd.readouterr().out
    assert f"{home.policy}, line " in shown
    assert "a tab; indent with blanks" in shown


def test_what_sweeps_have_reserved_is_told_apart(site, budget):
    with Ledger.open(get_ledger_path(site, "chest")) as ledger:
        ledger.reserve(
            "sweep0000000", {"third": RunCost("patient", (EVENT,))}, time.time() + 3600, EpsilonLimits(DELTA)
        )
        spent = ledger.compute_spent_epsilon(DELTA)
    with_kept = compute_epsilon([EVENT] * 4, DELTA)
    code, shown = budget(site, "--delta", DELTA)
    assert code == 0
    spent_text = f"epsilon {spent:.4g} at delta 1e-4 for each patient, noise multiplier 2 or more"
    assert f"{spent_text}; {with_kept:.4g} at the same delta including reservations of sweeps until" in shown
    assert "third" not in shown  # it spent nothing yet
