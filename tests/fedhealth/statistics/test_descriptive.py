import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from benchmarks.private_scores import SeededNoise
from fedhealth.config.compose import compose_config
from fedhealth.config.override_allowlist import find_override_errors
from fedhealth.config.validate import validate_config
from fedhealth.errors import ConfigError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.privacy.accounting.spending import iter_run_spending
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.histogram_release import DESCRIPTIVE_PREFIX, noise_tables
from fedhealth.privacy.mechanisms.noised_counts import decode_counts
from fedhealth.protocol.messages import DESCRIBE
from fedhealth.report.descriptive_page import compute_statistics, format_statistics
from fedhealth.runs.run_dir import STATISTICS_FILE, RunDir
from fedhealth.statistics.descriptive import (
    count_patients,
    get_descriptive_shapes,
    list_quantities,
    suppress_small_counts,
)
from fedhealth.statistics.shapes import get_statistic_shapes


@pytest.fixture(scope="module")
def config():
    return OmegaConf.to_object(compose_config(["data.root=x", "evaluation.min_group=3"]))


def cohort(ages, sexes, labels, patients, config):
    """Return what is looked at of a cohort; other variables are missing."""
    from pathlib import Path

    from fedhealth.data.tabular import encode_columns

    size = len(ages)
    cells = {"age": ages, "sex": sexes}
    table = {f"tabular.{name}": cells.get(name, [""] * size) for name in config.data.tabular}
    features, present, _ = encode_columns(pd.DataFrame({"line": range(size), **table}), config.data.tabular, Path("x"))
    parts = {
        "patient": np.array(patients),
        "labels": np.array(labels, np.float32)[:, None],
        "image_index": np.array([0, *[-1] * (size - 1)]),
        "texts": ("words", *[""] * (size - 1)),
        "tabular": features,
        "tabular_present": present,
    }
    return type("Cohort", (), parts)


def test_every_patient_counts_once(config):
    # the second row is another study of the first patient
    seen = cohort(["50", "90", "70", ""], ["F", "M", "M", ""], [1, 0, 0, math.nan], [7, 7, 8, 9], config)
    found = count_patients(seen, config)
    assert {name: table.shape for name, table in found.items()} == get_descriptive_shapes(config)
    assert all(table.sum() == 3 for table in found.values())
    assert found["describe.label.label"].tolist() == [1, 1, 1]
    assert found["describe.coverage.text"].tolist() == [1, 2]
    assert found["describe.variable.sex"].tolist() == [1, 1, 1]
    assert found["describe.variable.crp"][-1] == 3


def test_statistics_are_those_of_the_values(config):
    generator = np.random.default_rng(1)
    ages = generator.normal(62, 14, 3000)
    cells = [f"{age:.3f}" for age in ages]
    seen = cohort(cells, ["F"] * 3000, [0] * 2000 + [1] * 1000, range(3000), config)
    found = {each["name"]: each for each in compute_statistics(count_patients(seen, config), config)}
    age = found["variable.age"]
    assert age["exact_to"] == 0.75  # half a bin of a tenth of the scale of 15 years
    assert age["mean"] == pytest.approx(ages.mean(), abs=age["exact_to"])
    assert age["quartiles"] == pytest.approx(np.quantile(ages, [0.25, 0.5, 0.75]), abs=age["exact_to"])
    assert found["label.label"]["counts"] == {"stable": 2000, "severe": 1000, "unknown": 0}
    assert found["variable.crp"]["mean"] is None


def test_small_counts_are_not_told(config):
    seen = cohort(["50"] * 10, ["F"] * 8 + ["M"] * 2, [0] * 10, range(10), config)
    found = {each["name"]: each for each in compute_statistics(count_patients(seen, config), config)}
    assert found["variable.sex"]["counts"] == {"F": 8, "M": None, "missing": 0}
    assert any("M too few" in line for line in format_statistics(list(found.values())))
    assert suppress_small_counts({"x": np.array([2, 3, 0])}, 3)["x"].tolist() == [0, 3, 0]


def test_noise_is_scaled_to_all_tables_together():
    counts = {f"{DESCRIPTIVE_PREFIX}{place}": np.zeros(20_000, np.int64) for place in range(4)}
    released = noise_tables(counts, 5.0, 1, NoiseSource())
    assert decode_counts(released.pop("describe.noise"))[0] == pytest.approx(100)
    for table in map(decode_counts, released.values()):
        assert table.std() == pytest.approx(5.0 * 2, rel=0.05)
        assert abs(table.mean()) < 0.5
    twice = noise_tables(counts, 5.0, 2, NoiseSource())
    assert decode_counts(twice[f"{DESCRIPTIVE_PREFIX}0"]).std() == pytest.approx(5.0 * math.sqrt(8), rel=0.05)


def test_noised_statistics_hold_the_truth_in_their_intervals(config):
    private = replace(config, privacy={"_target_": "fedhealth.training.dpsgd_trainer.DPSGDTrainer"})
    generator, held = np.random.default_rng(3), []
    ages = generator.normal(62, 14, 1500)
    seen = cohort([f"{a:.3f}" for a in ages], ["F"] * 900 + ["M"] * 600, [1] * 300 + [0] * 1200, range(1500), private)
    exact = count_patients(seen, private)
    for seed in range(30):
        released = noise_tables(exact, 2.0, 1, SeededNoise(seed))
        found = {each["name"]: each for each in compute_statistics(released, private)}
        age, sex = found["variable.age"], found["variable.sex"]
        assert all(count >= 0 for each in found.values() for count in each.get("counts", {}).values())
        assert sum(sex["counts"].values()) == pytest.approx(sex["patients"], abs=2)
        held.append(
            [
                age["patients_interval"][0] <= 1500 <= age["patients_interval"][1],
                age["mean_interval"][0] <= ages.mean() <= age["mean_interval"][1],
                age["quartile_intervals"][1][0] <= np.median(ages) <= age["quartile_intervals"][1][1],
                sex["intervals"]["F"][0] <= 900 <= sex["intervals"]["F"][1],
            ]
        )
        assert found["variable.crp"]["mean"] is None  # nobody has one: what is there is noise
    assert (np.mean(held, axis=0) >= 0.8).all(), np.mean(held, axis=0)
    assert any("[" in line for line in format_statistics(list(found.values())))


def described(overrides, folder):
    run = RunDir(folder)
    launch_run(RunSpec.compose(overrides, run))
    return run, {each["name"]: each for each in json.loads((run.path / STATISTICS_FILE).read_text())}


@pytest.mark.parametrize("secagg", ["on", "off"])
def test_a_federation_describes_its_patients(secagg, tiny_overrides, good_hospitals, tmp_path):
    overrides = [*tiny_overrides(good_hospitals), "purpose=describe", f"secagg={secagg}", "evaluation.min_group=1"]
    run, found = described(overrides, tmp_path / "run")
    rows = pd.concat(pd.read_csv(path) for path in sorted(good_hospitals.glob("*/manifest.csv")))
    assert found["label.label"]["counts"] == {"stable": 36, "severe": 36, "unknown": 0}
    assert found["variable.ldh"]["missing"] == int(rows["ldh"].isna().sum())
    assert found["variable.crp"]["mean"] == pytest.approx(rows["crp"].mean(), abs=found["variable.crp"]["exact_to"])
    assert not (run.path / "counts.npz").exists()
    assert not (run.path / "model").exists()
    assert "72\N{NO-BREAK SPACE}patients at 3\N{NO-BREAK SPACE}hospitals" in (run.path / "report.html").read_text()


def test_noise_is_booked_and_drawn_once(tiny_overrides, good_hospitals, tmp_path):
    overrides = [*tiny_overrides(good_hospitals), "purpose=describe", "privacy=patient", "privacy.min_cohort=1"]
    run, found = described([*overrides, "privacy.epsilon=2", "secagg=on"], tmp_path / "run")
    spent = list(iter_run_spending(run.path))
    assert len(spent) == 3
    assert all(1.9 < each.epsilon <= 2 and each.booked_count == 1 for each in spent)
    _, exact = described(
        [*tiny_overrides(good_hospitals), "purpose=describe", "evaluation.min_group=1"], tmp_path / "exact"
    )
    counts = [
        [each.get(key) for each in told.values() for key in ("patients", "counts", "mean")] for told in (found, exact)
    ]
    assert counts[0] != counts[1]  # single counts may agree by chance
    assert "noise of differential privacy" in (run.path / "report.html").read_text()


def test_whole_hospitals_cannot_be_protected_in_statistics():
    with pytest.raises(ConfigError, match="no bounded sensitivity"):
        validate_config(compose_config(["data.root=x", "purpose=describe", "privacy=client"]))


def test_a_job_of_one_purpose_answers_no_question_of_the_other():
    overrides = ["data.root=x", "purpose=describe"]
    assert list(get_statistic_shapes(OmegaConf.to_object(compose_config(overrides)))) == [DESCRIBE]
    assert DESCRIBE not in get_statistic_shapes(OmegaConf.to_object(compose_config(overrides[:1])))
    assert find_override_errors(overrides[1:]) == []  # a lead may ask for it, the policy decides


def test_quantities_have_names_of_their_own(config):
    names = [each.name for each in list_quantities(config)]
    assert len(set(names)) == len(names)
