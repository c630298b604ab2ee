"""A lead that repeats a round, and a lead that resumes from an older checkpoint: every answer that leaves is booked."""

import pytest

from clients.app import build_app
from fedhealth.errors import FederationError
from fedhealth.experiment.launch import launch_run, resume_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.flower.in_process_grid import InProcessGrid, reply_in_turn
from fedhealth.privacy.accounting.accountant import compute_epsilon
from fedhealth.privacy.accounting.booking import find_bookings
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import compute_spent_epsilon
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.protocol.job import compose_job_config
from fedhealth.protocol.messages import DATA_KINDS, SEALED, TRAIN, UPDATE
from fedhealth.runs.run_dir import RunDir
from fedhealth.runtime.local_identities import temporary_site_identities
from strategies.app import build_initial_state, build_strategy
from strategies.round_driver import RoundDriver
from strategies.round_request import RoundRequest
from tests.clients.private_site import PRIVATE
from tests.faults.killing import killed_at

SITES = ("north", "south", "east")
REQUESTS = 80
DELTA = 1e-6
ONE_THREAD = ["training.threads=1"]  # a process that has started torch's threads cannot be forked


class WatchedGrid(InProcessGrid):
    """A grid that keeps what left each site: every answer that a lead could combine with the others."""

    left: dict[str, set[bytes]]

    def pull_messages(self, message_ids):
        for reply in super().pull_messages(message_ids):
            if reply.metadata.message_type in DATA_KINDS and reply.has_content():
                site = str(self._contexts[reply.metadata.src_node_id].node_config["site"])
                name = UPDATE if UPDATE in reply.content else SEALED
                self.left.setdefault(site, set()).add(bytes(next(iter(reply.content[name].values()))))
            yield reply


def read_bookings(run, site, purpose="train"):
    entries = verify_ledger(get_ledger_path(run.site_dir(site), "tiny"))
    return entries, find_bookings(entries, entries[0].run, purpose)


def check_the_report(run, site, answers):
    """Check that the ledger's epsilon is what the distinct answers cost."""
    entries, bookings = read_bookings(run, site)
    assert [booking.state for booking in bookings] == ["released"] * answers
    assert len({booking.digest for booking in bookings}) == answers
    train = [entry for entry in entries if entry.purpose == "train"]
    truth = compute_epsilon([bookings[0].entry.event] * answers, DELTA)
    assert compute_spent_epsilon(train, DELTA, entries[0].run) == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("secagg", [pytest.param("off", marks=pytest.mark.long), "on"])
def test_a_round_that_is_asked_for_80_times_costs_80_times(good_hospitals, tiny_overrides, tmp_path, secagg):
    run = RunDir(tmp_path / "run")
    spec = RunSpec.compose([*tiny_overrides(good_hospitals), *PRIVATE, *ONE_THREAD, f"secagg={secagg}"], run)
    job = spec.job
    config = compose_job_config(job)
    run.create(run=job.run, name="replay")
    initial = build_initial_state(config)
    grid = WatchedGrid(reply_in_turn(build_app(job)), SITES, {})
    grid.left = {}
    answered = 0
    with temporary_site_identities(job):
        strategy = build_strategy(config, job, run, {name: array.shape for name, array in initial.items()})
        driver, statistics = strategy.driver, strategy.statistics[TRAIN]
        driver.attempts = 1
        strategy.driver.aggregation.begin_history(initial, "")
        driver.join(grid, 60.0)
        for number in range(REQUESTS):
            arrays = {name: array + array.dtype.type(number * 1e-3) for name, array in initial.items()}
            try:
                driver.run_exchange(grid, RoundRequest(TRAIN, 1, arrays, initial, statistics), 60.0)
            except FederationError:
                continue
            answered += 1
    planned = config.strategy.rounds + config.privacy["spare_rounds"]
    assert answered <= (planned if secagg == "off" else 1)  # under secure aggregation the first model is pinned
    for site in SITES:
        left = len(grid.left[site])
        assert left <= planned
        check_the_report(run, site, left)
        assert secagg == "on" or read_bookings(run, site)[0][-1].kind == "decline"


MOMENT = (RoundDriver, "add_reply", 7, True)  # round 3, after the first of three sites has answered


@pytest.mark.parametrize("secagg", ["off", pytest.param("on", marks=pytest.mark.long)])
def test_a_resume_from_an_older_checkpoint_reports_the_truth_and_goes_on(
    good_hospitals, tiny_overrides, tmp_path, monkeypatch, secagg
):
    """The newest checkpoint is damaged: rounds 2 and 3 are trained again; two spare rounds pay for the site's share.

    Under secure aggregation the lead goes on with the opened sum of round 2, and the sites mask round 3 again.
    """
    run = RunDir(tmp_path / "run")
    spares = [*ONE_THREAD, "strategy.rounds=3", "privacy.spare_rounds=2", f"secagg={secagg}"]
    monkeypatch.setattr("fedhealth.report.render.render_run_report", lambda folder: "")
    killed_at(MOMENT, [*tiny_overrides(good_hospitals), *PRIVATE, *spares], run)
    newest = max((run.path / "checkpoints").iterdir(), key=lambda path: path.name)
    newest.write_bytes(newest.read_bytes()[:-1])
    resume_run(run)
    assert run.info.state == "completed"
    answers = {site: len(read_bookings(run, site)[1]) for site in SITES}
    # without secure aggregation: rounds 1, 2, 3, and rounds 2 and 3 once more
    assert max(answers.values()) == (5 if secagg == "off" else 3)
    for site, number in answers.items():
        check_the_report(run, site, number)


def test_an_honest_run_books_its_rounds_and_no_spare_one(good_hospitals, tiny_overrides, tmp_path, monkeypatch):
    monkeypatch.setattr("fedhealth.report.render.render_run_report", lambda folder: "")
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose([*tiny_overrides(good_hospitals), *PRIVATE, *ONE_THREAD, "secagg=on"], run))
    for site in SITES:
        check_the_report(run, site, 2)
        assert [booking.state for booking in read_bookings(run, site, "evaluate")[1]] == ["released"]
