import json
from typing import Any, cast

import numpy as np
import pytest
from omegaconf import OmegaConf
from sklearn.metrics import roc_auc_score

from fedhealth.config.compose import compose_config
from fedhealth.config.validate import validate_config
from fedhealth.errors import ConfigError
from fedhealth.evaluation.predictions import Predictions
from fedhealth.evaluation.subgroups import (
    UNKNOWN,
    assign_subgroups,
    count_scores_by_subgroup,
    evaluate_subgroups,
    get_subgroup_shapes,
    list_subgroup_variables,
)
from fedhealth.experiment.baselines import BaselineData
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.histogram_release import noise_histograms
from fedhealth.runs.run_dir import GROUPS_FILE, RunDir


def config_of(overrides):
    return OmegaConf.to_object(compose_config(["data.root=x", *overrides]))


OVERRIDES = [
    "+evaluation.subgroups.sex=[]",
    "+evaluation.subgroups.age=[40,60]",
    "evaluation.min_group=3",
    "evaluation.bins=64",
]


@pytest.fixture(scope="module")
def config():
    return config_of(OVERRIDES)


def test_groups_are_levels_and_bands(config):
    named = {each.name: each.groups for each in list_subgroup_variables(config)}
    assert named == {"sex": ("F", "M"), "age": ("below 40", "40 to 60", "60 or more")}
    assert get_subgroup_shapes(config) == {"groups.sex": (2, 2, 1, 64), "groups.age": (2, 3, 1, 64)}


def test_rows_are_placed_by_their_cells(config, tmp_path):
    import pandas as pd

    from fedhealth.data.tabular import encode_columns

    cells = {"age": ["39.9", "40", "59", "60", ""], "sex": ["F", "M", "", "M", "F"]}
    blank = {f"tabular.{name}": cells.get(name, [""] * 5) for name in config.data.tabular}
    features, _, _ = encode_columns(pd.DataFrame({"line": range(5), **blank}), config.data.tabular, tmp_path)
    cohort = type("Cohort", (), {"tabular": features})
    found = assign_subgroups(cohort, config)
    assert found["age"].tolist() == [0, 1, 1, 2, UNKNOWN]
    assert found["sex"].tolist() == [0, 1, UNKNOWN, 1, 0]


def predictions(patients, labels=None):
    size = len(patients)
    scores = np.linspace(0.1, 0.9, size)[:, None]
    labels = np.tile([0.0, 1.0], size)[:size, None] if labels is None else labels
    return Predictions(scores, labels, np.asarray(patients))


def test_tables_hold_every_study_of_a_known_group(config):
    places = {"sex": np.array([0, 0, 0, 1, 1, 1]), "age": np.array([0, 0, 0, 2, 2, 2])}
    tables = count_scores_by_subgroup(predictions(range(6)), places, config)
    assert tables["groups.sex"].sum(axis=(2, 3)).tolist() == [[1, 2], [2, 1]]  # with and without the class
    assert tables["groups.age"].sum(axis=(0, 2, 3)).tolist() == [3, 0, 3]


@pytest.mark.parametrize(
    "places", [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, UNKNOWN], [0, 0, 0, 1, 1, 1]], ids=["small", "unknown", "patients"]
)
def test_a_small_group_silences_its_variable(config, places):
    patients = [0, 1, 2, 3, 3, 4] if places[-1] == 1 and places[3] == 1 else range(6)  # three studies, two patients
    tables = count_scores_by_subgroup(predictions(patients), {"sex": np.array(places), "age": np.zeros(6, int)}, config)
    assert not tables["groups.sex"].any()
    assert tables["groups.age"].sum() == 6


def test_scores_of_groups_are_scikit_learns_and_small_groups_have_none(config):
    generator = np.random.default_rng(0)
    labels = (generator.random(400) < 0.5).astype(float)
    logits = np.where(np.arange(400) < 200, 3, 0.3) * (labels - 0.5) + generator.normal(0, 1, 400)
    scored = Predictions(1 / (1 + np.exp(-logits[:, None])), labels[:, None], np.arange(400))
    sex = (np.arange(400) >= 200).astype(int)
    age = np.where(np.arange(400) < 396, 0, 2)
    wide = config_of([*OVERRIDES[:3], "evaluation.bins=2048"])
    tables = count_scores_by_subgroup(scored, {"sex": sex, "age": age}, wide)
    by_sex, by_age = cast(list[dict[str, Any]], evaluate_subgroups(tables, wide))
    for row, chosen in zip(by_sex["groups"], (sex == 0, sex == 1), strict=True):
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(labels[chosen], logits[chosen]), abs=0.002)
    assert by_sex["gap"]["low"] > 0
    assert [row["studies"] for row in by_age["groups"]] == [396, None, 4]
    assert by_age["groups"][2]["auroc"] is None
    assert by_age["gap"] is None


@pytest.mark.parametrize(
    ("subgroups", "said"),
    [
        ("hair=[]", "no such column"),
        ("sex=[1]", "empty list"),
        ("age=[]", "ascending"),
        ("age=[6,5]", "asc"),
        ("noise=[]", "no such column"),
        ("crp=[50,1000000]", r"1e\+06 is over 1000 scales"),
    ],
)
def test_impossible_groups_are_refused(subgroups, said):
    with pytest.raises(ConfigError, match=said):
        validate_config(compose_config(["data.root=x", f"+evaluation.subgroups.{subgroups}"]))


@pytest.mark.parametrize("secagg", ["on", "off"])
def test_a_federation_sums_its_sites_groups(secagg, tiny_overrides, good_hospitals, tmp_path):
    overrides = [*tiny_overrides(good_hospitals), f"secagg={secagg}", "strategy.rounds=1", "evaluation.min_group=1"]
    overrides += ["+evaluation.subgroups.crp=[60]"]
    launch_run(RunSpec.compose(overrides, RunDir(tmp_path / "run")))
    config = OmegaConf.to_object(compose_config(overrides))
    rows = json.loads((tmp_path / "run" / GROUPS_FILE).read_text())[0]["groups"]
    bench = BaselineData.prepare(config)
    places = [assign_subgroups(cohort, config)["crp"][cohort.rows("test")] for cohort in bench.cohorts.values()]
    assert [row["studies"] for row in rows] == [int(sum((each == group).sum() for each in places)) for group in (0, 1)]


PRIVATE = [*OVERRIDES, "privacy=patient", "privacy.subgroup_release_share=0.5", "evaluation.bootstrap=200"]


def release(scored, places, config, noise_multiplier):
    """Return the tables of one private hospital as they leave it."""
    tables = count_scores_by_subgroup(scored, places, config)
    return noise_histograms(tables, noise_multiplier, NoiseSource(), 0.5)


def draw_patients(generator, size):
    """Return predictions with an AUROC of about .87 in two groups that alternate."""
    labels = (generator.random(size) < 0.5).astype(float)
    logits = 1.58 * labels - 0.79 + generator.normal(0, 1, size)
    scored = Predictions(1 / (1 + np.exp(-logits[:, None])), labels[:, None], np.arange(size))
    return scored, {"sex": np.arange(size) % 2, "age": np.zeros(size, int)}


def test_a_private_site_sends_every_group_and_the_size_of_its_noise():
    config = config_of(PRIVATE)
    assert get_subgroup_shapes(config) == {
        "groups.sex": (2, 2, 1, 12),
        "groups.age": (2, 3, 1, 12),
        "groups.noise": (1,),
    }
    places = {"sex": np.array([0, 0, 0, 0, 0, 1]), "age": np.zeros(6, int)}
    exact = count_scores_by_subgroup(predictions(range(6)), places, config)
    assert exact["groups.sex"].sum(axis=(0, 2, 3)).tolist() == [5, 1]  # whether a group is small must not show
    assert {name: each.shape for name, each in release(predictions(range(6)), places, config, 3.0).items()} == (
        get_subgroup_shapes(config)
    )
    without = config_of([*PRIVATE, "privacy.subgroup_release_share=0"])
    assert get_subgroup_shapes(without) == {}
    assert evaluate_subgroups({}, without) == []


def test_private_scores_of_groups_hold_the_truth_and_state_their_noise():
    config, generator, held = config_of(PRIVATE), np.random.default_rng(0), 0
    many = draw_patients(np.random.default_rng(1), 200_000)[0]
    truth = roc_auc_score(many.labels[:, 0], many.scores[:, 0])
    for _ in range(20):
        scored, places = draw_patients(generator, 1000)
        by_sex, by_age = evaluate_subgroups(release(scored, places, config, 2.2), config)
        held += sum(row["auroc"]["low"] <= truth <= row["auroc"]["high"] for row in by_sex["groups"])
        assert by_sex["noise"]["count_std"] == pytest.approx(2.2 * 2, abs=1e-3)  # half of the release, of two variables
        assert by_sex["noise"]["cells"] == 12
        assert by_sex["gap"]["low"] < 0.1
        assert [row["studies"] is None for row in by_age["groups"]] == [False, True, True]
        assert [row["auroc"] is None for row in by_age["groups"]] == [False, True, True]
        assert by_age["gap"] is None
    assert held >= 34  # 95 % of 40, and three deviations below


def test_groups_that_are_lost_in_the_noise_are_suppressed():
    config = config_of(PRIVATE)
    scored, places = draw_patients(np.random.default_rng(0), 60)
    for variable in evaluate_subgroups(release(scored, places, config, 8.0), config):
        assert all(row["auroc"] is None and row["studies"] is None for row in variable["groups"])
        assert variable["noise"]["classes_scored"] == 0


def test_groups_below_the_least_size_are_suppressed_without_much_noise_too():
    config = config_of([*PRIVATE, "evaluation.min_group=25"])
    scored, places = draw_patients(np.random.default_rng(0), 80)  # about 20 with and 20 without in each group
    by_sex, _ = evaluate_subgroups(release(scored, places, config, 0.01), config)
    assert [row["auroc"] for row in by_sex["groups"]] == [None, None]
    assert [row["studies"] for row in by_sex["groups"]] == [40, 40]


def test_private_training_says_of_groups_what_it_has_paid_for(tiny_overrides, good_hospitals, tmp_path):
    overrides = [*tiny_overrides(good_hospitals), "strategy.rounds=1", "evaluation.min_group=1", "privacy=patient"]
    overrides += ["+evaluation.subgroups.crp=[60]", "privacy.min_cohort=1", "training=sgd", "privacy.epsilon=5000"]
    overrides += ["privacy.subgroup_release_share=0.5", "evaluation.audit=false"]
    launch_run(RunSpec.compose(overrides, RunDir(tmp_path / "run")))
    [by_crp] = json.loads((tmp_path / "run" / GROUPS_FILE).read_text())
    bench = BaselineData.prepare(OmegaConf.to_object(compose_config(overrides)))
    for number, row in enumerate(by_crp["groups"]):
        exact = sum(
            len({cohort.patient[r] for r in cohort.rows("test") if places[r] == number})
            for cohort in bench.cohorts.values()
            for places in [assign_subgroups(cohort, bench.config)["crp"]]
        )
        assert abs(row["studies"] - exact) <= 4 * by_crp["noise"]["studies_std"] + 0.5
        assert by_crp["noise"]["studies_std"] < 2  # or the line above could not fail
