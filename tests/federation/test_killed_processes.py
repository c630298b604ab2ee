"""Any process of a real consortium, killed at any moment and started again, changes nothing of the result.

`make faults` runs the whole matrix, `make test` a case at the lead and one at a site.
"""

import os
import subprocess
import sys

import pytest

from fedhealth.privacy.accounting.booking import find_bookings
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.runs.run_dir import RunDir
from tests.federation.conftest import SITES, STRICT
from tests.federation.looking import PLAIN, equal, happened, rounds_of, wait_for

pytestmark = pytest.mark.xdist_group("federation")

PRIVATE = ["secagg=on", "privacy=patient", "strategy.rounds=2", "training.threads=1"]
SEALED = ["secagg=on", *PLAIN[1:]]
CALLS = {  # which call: in the second round where there is a choice
    "before train": 2,
    "while training": 3,
    "after upload": 6,
    "before unmask": 2,
    "while unmasking": 2,
    "while checkpointing": 2,
    "between rounds": 2,
}
HANDING_OVER = ("while a question is handed over", "while an answer is handed over")  # the next after the wish
IN_PRIVATE = "while training privately"
SPENDING = [("worker", IN_PRIVATE), ("site", "while unmasking"), ("lead", "after upload")]
INSIDE = ("while training", IN_PRIVATE, "while unmasking")  # calls of the worker's own
VICTIMS = ("server application", "lead", "site", "worker", "all of them")
IN_TURN = [("server application", "after upload"), ("site", "while training")]
MATRIX = [(victim, moment) for victim in VICTIMS for moment in CALLS]
MATRIX += [(victim, moment) for victim in ("lead", "all of them") for moment in HANDING_OVER]
FULL = os.environ.get("FEDHEALTH_FAULTS") == "full"
CASES = MATRIX if FULL else [IN_TURN[0], pytest.param(*IN_TURN[1], marks=pytest.mark.long)]


def strike(consortium, victim, moment):
    """Kill the victim at the moment."""
    call = {**CALLS, IN_PRIVATE: 3}.get(moment, 1)
    if victim == "worker":
        consortium.wish(moment, call, *(("itself",) if moment in INSIDE else ("workers", SITES[0])))
    elif victim == "server application":
        consortium.wish(moment, call, victim)
    else:
        names = {"lead": ("lead",), "site": SITES[:1], "all of them": (*SITES, "lead")}[victim]
        consortium.wish(moment, call, "processes", *names)


@pytest.mark.parametrize(("victim", "moment"), CASES)
def test_a_killed_process_changes_nothing(consortium, undisturbed, tmp_path, victim, moment):
    overrides = SEALED if "unmask" in moment else PLAIN
    expected = undisturbed(*overrides)
    with consortium.supervised():
        strike(consortium, victim, moment)
        run = consortium.run(tmp_path / "run", *overrides)
    assert consortium.fulfilled, "the moment never came"
    assert run.info.state == "completed"
    rounds = [event["round"] for event in run.read_events()[0] if event["event"] == "round_completed"]
    assert rounds == [1, 2] or rounds == [1, 2, 2]  # a round whose checkpoint was lost is done again
    assert equal(run, expected, atol=0.0 if overrides is PLAIN else 1e-6)  # secure aggregation rounds at random


@pytest.mark.skipif(not FULL, reason="a part of `make faults`")
@pytest.mark.parametrize(("victim", "moment"), SPENDING)
def test_nothing_is_spent_twice(consortium, tmp_path, victim, moment):
    consortium.agree({**STRICT, "lifetime_epsilon": 1000.0})  # of all tests together
    with consortium.supervised():
        strike(consortium, victim, moment)
        run = consortium.run(tmp_path / "run", *PRIVATE)
    assert consortium.fulfilled
    for site in SITES:
        ((_, ledger),) = find_ledgers(consortium.poc.site_home(site).state)
        booked = [entry.round for entry in verify_ledger(ledger) if (entry.kind, entry.run) == ("book", run.info.run)]
        assert booked == [1, 2, 3], site  # two rounds, and the scores of the final model


@pytest.mark.skipif(not FULL, reason="a part of `make faults`")
@pytest.mark.parametrize(("moment", "call"), [(IN_PRIVATE, 3), ("between release and reply", 2)])
def test_a_power_cut_in_the_last_round_costs_the_hospital_no_round(consortium, tmp_path, moment, call):
    """One hospital's daemon and the worker that got there are gone in round 2 of 2: no hospital loses the round."""
    consortium.agree({**STRICT, "lifetime_epsilon": 1000.0})  # of all tests together
    with consortium.supervised():
        consortium.wish(moment, call, "power cut", SITES[0])
        run = consortium.run(tmp_path / "run", *PRIVATE)
    assert consortium.fulfilled
    failed = {}
    for site in SITES:
        assert rounds_of(run, site) == [True, True], site
        ((_, ledger),) = find_ledgers(consortium.poc.site_home(site).state)
        entries = [entry for entry in verify_ledger(ledger) if entry.run == run.info.run]
        bookings = find_bookings(entries, run.info.run)
        assert [(each.state, each.rounds[-1]) for each in bookings] == [("released", n) for n in (1, 2, 3)], site
        failed[site] = sum(entry.kind == "fail" for entry in entries)
    assert sum(failed.values()) <= 1  # a hospital that lost only its worker says so, which counts and costs no round


@pytest.mark.skipif(not FULL, reason="a part of `make faults`")
def test_a_run_whose_starter_and_everything_else_died_is_taken_up_by_the_lead(consortium, undisturbed, tmp_path):
    expected, run = undisturbed(*PLAIN), RunDir(tmp_path / "run")
    overrides = [*consortium.overrides, *PLAIN, "runtime=deployment", f"runtime.home='{consortium.poc.lead.path}'"]
    command = [sys.executable, "-m", "fedhealth.cli.main", "run", *overrides, f"hydra.run.dir='{run.path}'"]
    starter = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: happened(run, "round_completed"), 120)
    starter.kill()
    starter.wait()
    with consortium.supervised():
        for name in ("lead", *SITES):
            consortium.poc.processes[name].kill()
        wait_for(lambda: run.info.state == "completed", 240)
    assert happened(run, "resuming")
    assert equal(run, expected)
