"""How hospitals differ, in sums."""

import json

import numpy as np
import pytest

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.data.dataset import prepare_dataset
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.run_dir import RunDir
from fedhealth.statistics.heterogeneity import (
    DRIFT,
    PROFILE,
    compute_divergence,
    compute_drift,
    compute_site_profile,
    get_heterogeneity_shapes,
    list_heterogeneity_tables,
)

MODALITIES = frozenset({"image", "text", "tabular"})


def bin_of(table, counts, row=0):
    [at] = np.flatnonzero(counts[row])
    edges = (-np.inf, *table.edges, np.inf)
    return edges[at], edges[at + 1]


@pytest.fixture(name="config")
def config_(good_hospitals, tiny_overrides):
    overrides = tuple(tiny_overrides(good_hospitals))
    return compose_job_config(Job("run", overrides, compute_config_digest(compose_config(overrides)), ""))


def test_a_site_puts_one_into_the_right_bin_of_every_row(config):
    cohort = prepare_dataset(config.data, "north")
    found = compute_site_profile(cohort, config.data, MODALITIES)
    assert {name: counts.shape for name, counts in found.items()} | {DRIFT: (1,)} == get_heterogeneity_shapes(
        config.data, MODALITIES
    )
    rows = cohort.rows("train")
    truth = {
        "rows": len(rows),
        "prevalence": cohort.labels[rows, 0].mean(),
        "text": np.mean([len(cohort.texts[row].split()) for row in rows]),
        "image": cohort.images[cohort.image_index[rows]].mean(),
    }
    for table in list_heterogeneity_tables(config.data, MODALITIES):
        counts = found[PROFILE + table.name]
        assert set(counts.sum(axis=1)) == {1}
        if table.name in truth:
            low, high = bin_of(table, counts)
            assert low <= truth[table.name] < high, table.name


def test_clinical_variables_are_in_units_of_their_scale(config):
    cohort = prepare_dataset(config.data, "south")
    [table] = [table for table in list_heterogeneity_tables(config.data, MODALITIES) if table.name == "tabular"]
    assert table.rows == ("crp", "ldh")
    counts = compute_site_profile(cohort, config.data, MODALITIES)["sites.tabular"]
    rows = cohort.rows("train")
    measured = cohort.tabular[rows, 2][cohort.tabular[rows, 3] == 0].mean()  # ldh, where it was measured
    low, high = bin_of(table, counts, 1)
    assert low <= measured < high


def test_updates_that_agree_and_updates_at_right_angles():
    def sums(*updates):
        return {DRIFT: sum(compute_drift(float(np.linalg.norm(each)))[DRIFT] for each in updates)}

    same, across = [[1, 0], [1, 0]], [[1, 0], [0, 1]]
    for updates, expected in ((same, 1.0), (across, 2.0)):
        mean = {"w": np.mean(updates, axis=0).astype(np.float32)}
        assert compute_divergence(sums(*updates), mean, 2) == pytest.approx(expected, rel=1e-5)
    assert compute_divergence({}, {"w": np.ones(2, np.float32)}, 2) is None
    assert compute_divergence(sums([1, 0], [-1, 0]), {"w": np.zeros(2, np.float32)}, 2) is None


@pytest.mark.parametrize("secagg", ["on", "off"])
@pytest.mark.parametrize("privacy", ["none", "patient", "client"])
def test_facts_about_patients_stay_under_privacy_and_drift_may_leave(
    privacy, secagg, good_hospitals, tiny_overrides, tmp_path
):
    overrides = [*tiny_overrides(good_hospitals), f"privacy={privacy}", f"secagg={secagg}", "training.threads=1"]
    overrides += ["privacy.min_cohort=5", "privacy.max_records_per_patient=2"] if privacy == "patient" else []
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, run))
    events = run.read_events()[0]
    told = [event["tables"] for event in events if event["event"] == "heterogeneity"]
    rounds = [event["divergence"] for event in events if event["event"] == "round_completed"]
    assert all(value > 0.9 for value in rounds)
    if privacy == "none":
        assert len(told) == 1  # it does not change from round to round
        assert sum(told[0]["prevalence"]["counts"][0]) == 3
        assert load_run_record(run.path).profile["rows"].rows == ("training rows",)
    else:
        assert not told
        assert "sites." not in json.dumps(events)
    page = (run.path / "report.html").read_text()
    assert "How the hospitals differ" in page
