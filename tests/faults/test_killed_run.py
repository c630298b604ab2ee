"""A run on one machine, killed at any moment and started again, ends like one that was not."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhealth.errors import ConfigError
from fedhealth.experiment.launch import launch_run, resume_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.privacy.accounting.booking import find_bookings
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import compute_spent_epsilon
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.runs.run_dir import PERSONAL_FILE, RunDir

_spec = importlib.util.spec_from_file_location("killing", Path(__file__).with_name("killing.py"))
killing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(killing)

FULL = os.environ.get("FEDHEALTH_FAULTS") == "full"
EVERY_MOMENT = killing.MOMENTS | killing.SEALED_MOMENTS
SITES = ("north", "south", "east")
PLAIN = ["strategy.rounds=3", "training=sgd", "training.threads=1", "personalization=ditto"]
REOPENED = {"while unmasking", "after unmask", "before the sum is stored"}
REUSED = {"after the sum is stored", "after the sum, before the checkpoint", "while checkpointing"}
PRIVATE = ["privacy=patient", "privacy.min_cohort=5", "privacy.max_records_per_patient=2", "data.name=cohort"]


@pytest.fixture(name="overrides")
def words_(good_hospitals, tiny_overrides):
    def make(*extra):
        return [*tiny_overrides(good_hospitals), *PLAIN, *extra]

    return make


@pytest.fixture(name="undisturbed", scope="module")
def undisturbed_(good_hospitals, tiny_overrides, tmp_path_factory):
    made = {}

    def run(*extra):
        if extra not in made:
            overrides = [*tiny_overrides(good_hospitals), *PLAIN, *extra]
            made[extra] = RunDir(tmp_path_factory.mktemp("undisturbed") / "run")
            launch_run(RunSpec.compose(overrides, made[extra]))
        return made[extra]

    return run


def model(run: RunDir) -> dict[str, np.ndarray]:
    return load_file(run.path / "model.safetensors")


@pytest.mark.parametrize("moment", killing.MOMENTS)
def test_a_killed_run_ends_bit_identical(moment, overrides, undisturbed, tmp_path):
    run, whole = RunDir(tmp_path / "run"), undisturbed()
    killing.killed_at(killing.MOMENTS[moment], overrides(), run)
    assert run.info.state == "running"
    resume_run(run)
    assert run.info.state == "completed"
    assert all(np.array_equal(array, model(whole)[name]) for name, array in model(run).items())
    for site in SITES:
        own, expected = (load_file(each.site_dir(site) / PERSONAL_FILE) for each in (run, whole))
        assert all(np.array_equal(array, expected[name]) for name, array in own.items()), site


@pytest.mark.parametrize(
    "moment", [*killing.SEALED_MOMENTS, *(pytest.param(each, marks=pytest.mark.long) for each in killing.MOMENTS)]
)
def test_with_secure_aggregation_too(moment, overrides, undisturbed, tmp_path):
    run, whole = RunDir(tmp_path / "run"), undisturbed("secagg=on")
    killing.killed_at((killing.MOMENTS | killing.SEALED_MOMENTS)[moment], overrides("secagg=on"), run)
    resume_run(run)
    for name, array in model(run).items():  # stochastic rounding differs from run to run
        np.testing.assert_allclose(array, model(whole)[name], atol=1e-6)
    events = {event["event"] for event in run.read_events()[0]}
    assert ("reopened" in events) == (moment in REOPENED)  # the survivors were fixed: the same sum is opened
    assert ("reused" in events) == (moment in REUSED)  # the sum is on the disk: nobody is asked


def test_a_sum_without_some_towers_is_reopened_too(overrides, tmp_path, site_writer, table_writer):
    """North alone has a table: its tower is in no sum."""
    for seed, site in enumerate(SITES):
        rows = site_writer(tmp_path / "hospitals", site, seed=seed)
        if site != "north":
            table_writer(tmp_path / "hospitals" / site / "manifest.csv", [row | {"crp": "", "ldh": ""} for row in rows])
    run = RunDir(tmp_path / "run")
    words = overrides("secagg=on", f"data.root={tmp_path / 'hospitals'}")
    killing.killed_at(killing.SEALED_MOMENTS["while unmasking"], words, run)
    resume_run(run)
    assert "reopened" in {event["event"] for event in run.read_events()[0]}
    assert run.info.state == "completed"


@pytest.mark.parametrize("secagg", ["on", pytest.param("off", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "moment", ["while training", "between answer and release", "between release and reply", "while evaluating"]
)
def test_what_was_not_released_is_not_spent_twice(moment, secagg, overrides, tmp_path):
    run = RunDir(tmp_path / "run")
    secret = overrides(*PRIVATE, f"secagg={secagg}")
    killing.killed_at(killing.MOMENTS[moment], secret, run)
    resume_run(run)
    for site in SITES:
        entries = verify_ledger(get_ledger_path(run.site_dir(site), "cohort"))
        bookings = find_bookings(entries, entries[0].run)
        assert [(each.state, each.rounds[-1]) for each in bookings] == [("released", n) for n in (1, 2, 3, 4)], site


@pytest.mark.parametrize("secagg", ["on", "off"])
@pytest.mark.parametrize("moment", EVERY_MOMENT if FULL else ["between release and reply"])
def test_a_power_cut_in_the_last_round_costs_no_hospital_that_round(moment, secagg, overrides, tmp_path):
    """All hospitals are in every round, and what each spent is what its replies cost: at most one spare round."""
    if secagg == "off" and moment in killing.SEALED_MOMENTS:
        pytest.skip("a moment of secure aggregation")
    run, secret = RunDir(tmp_path / "run"), overrides(*PRIVATE, f"secagg={secagg}")
    killing.killed_at(killing.move_to_last_round(EVERY_MOMENT[moment]), secret, run)
    resume_run(run)
    assert run.info.state == "completed"
    done = {
        event["round"]: set(event["sites"]) for event in run.read_events()[0] if event["event"] == "round_completed"
    }
    assert done == {number: set(SITES) for number in (1, 2, 3)}
    for site in SITES:
        entries = verify_ledger(get_ledger_path(run.site_dir(site), "cohort"))
        bookings = find_bookings(entries, entries[0].run)
        assert {each.state for each in bookings} == {"released"}, site
        assert len({each.digest for each in bookings}) == len(bookings), site  # nothing left twice under two bookings
        assert [each.kind for each in entries if each.kind in ("decline", "fail")] == [], site
        trained = [each for each in bookings if each.entry.purpose == "train"]
        assert len(trained) in (3, 4), site  # the rounds, and the spare one where the lead had lost the sum
        assert compute_spent_epsilon(entries, 1e-6, entries[0].run) <= 8.0, site


SHARED = ["method=fedsgd", "privacy.noise=shared", "privacy.sample_rate=0.5", "training.local_steps=1", "secagg=on"]
SHARED_MOMENTS = [*killing.SEALED_MOMENTS, "between answer and release", "between release and reply"]


@pytest.mark.parametrize(
    "moment",
    [
        *SHARED_MOMENTS,
        *(
            pytest.param(each, marks=pytest.mark.long)
            for each in EVERY_MOMENT
            if each not in (*SHARED_MOMENTS, "while training")  # one step has no moment in its middle
        ),
    ],
)
def test_with_shared_noise_every_sum_has_its_noise_and_every_draw_its_booking(
    moment, good_hospitals, tiny_overrides, tmp_path
):
    """The lead measures the noise of each sum in its blank values and stops a run in which some is missing."""
    run = RunDir(tmp_path / "run")
    words = [
        *tiny_overrides(good_hospitals),
        "strategy.rounds=3",
        "training=sgd",
        "training.threads=1",
        *PRIVATE,
        *SHARED,
    ]
    killing.killed_at(EVERY_MOMENT[moment], words, run)
    resume_run(run)
    assert run.info.state == "completed"
    measured = [event for event in run.read_events()[0] if event["event"] == "noise_measured"]
    assert {event["round"] for event in measured} == {1, 2, 3}
    for site in SITES:
        entries = verify_ledger(get_ledger_path(run.site_dir(site), "cohort"))
        bookings = find_bookings(entries, entries[0].run)
        assert {each.state for each in bookings} == {"released"}, site
        assert len({each.digest for each in bookings}) == len(bookings), site  # no draw left under two bookings
        assert {each.entry.mechanism.shares for each in bookings} == {3}, site
        assert compute_spent_epsilon(entries, 1e-6, entries[0].run) <= 8.0, site


def test_killed_twice_in_one_round(overrides, undisturbed, tmp_path):
    run = RunDir(tmp_path / "run")
    killing.killed_at(killing.MOMENTS["after upload"], overrides(), run)
    killing.killed_at((*killing.MOMENTS["after upload"][:2], 2, True), overrides(), run)
    resume_run(run)
    assert all(np.array_equal(array, model(undisturbed())[name]) for name, array in model(run).items())


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(overrides, undisturbed, tmp_path):
    run = RunDir(tmp_path / "run")
    killing.killed_at(killing.MOMENTS["before the evaluation"], overrides(), run)
    newest = max((run.path / "checkpoints").glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    resume_run(run)
    resumed = [event["round"] for event in run.read_events()[0] if event["event"] == "resumed"]
    assert resumed == [2]
    assert "damaged" in (run.path / "fedhealth.log").read_text()
    assert all(np.array_equal(array, model(undisturbed())[name]) for name, array in model(run).items())


def test_another_configuration_is_refused_and_the_difference_named(overrides, tmp_path, monkeypatch):
    run = RunDir(tmp_path / "run")
    killing.killed_at(killing.MOMENTS["between rounds"], overrides(), run)
    changed = [override.replace("strategy.rounds=3", "strategy.rounds=4") for override in run.info.job]
    run.update_info(job=changed)
    with pytest.raises(ConfigError, match=r"rounds: 4"):
        resume_run(run)
    assert run.info.state == "running"  # nothing was touched


def test_a_completed_run_and_a_running_one_are_left_alone(overrides, undisturbed, tmp_path):
    with pytest.raises(ConfigError, match="completed"):
        resume_run(undisturbed())
    run = RunDir(tmp_path / "run")
    killing.killed_at(killing.MOMENTS["between rounds"], overrides(), run)
    with run.lock(), pytest.raises(ConfigError, match="is running"):
        resume_run(run)
    with pytest.raises(ConfigError, match="no run"):
        resume_run(RunDir(tmp_path / "nothing"))
