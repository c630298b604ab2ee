"""With defaults, all modalities together are not significantly worse than the best one, or the run says so first."""

import csv

import numpy as np
import pytest
from PIL import Image

from fedhealth.config.quoting import quote_value
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.report.notices import collect_notices
from fedhealth.report.quality_notices import warn_fusion_loses
from fedhealth.report.verdict import Verdict, judge_gain, list_modality_gains
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.run_dir import RunDir
from tests.conftest import COLUMNS, SITES

PATIENTS = 120
NOTES = {0: ["better", "walks", "stable"], 1: ["worse", "oxygen", "fever"]}
OTHER = ["seen", "on", "the", "ward", "today", "with", "family", "about", "labs"]
QUICK = [
    "secagg=off",
    "strategy.rounds=4",
    "training.threads=1",
    "baselines.local_only=false",
    "baselines.centralised=false",
]


def write_patients(folder, seed, share_of_notes, image_signal):
    """Write one hospital: laboratory values say something, notes and images as much as they are told to."""
    draw = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for number in range(PATIENTS):
            label = int(draw.random() < 0.4)
            grey = np.clip(draw.normal(110, 40) + image_signal * label + draw.normal(0, 25, (16, 16)), 0, 255)
            Image.fromarray(grey.astype(np.uint8)).save(folder / "images" / f"{number}.png")
            told = label if draw.random() < 0.85 else 1 - label
            words = [*draw.choice(OTHER, 6), draw.choice(NOTES[told])]
            has_note = draw.random() < share_of_notes
            table.writerow(
                {
                    "patient_id": f"{folder.name}-{number}",
                    "study_id": "1",
                    "image": f"images/{number}.png",
                    "text": " ".join(draw.permutation(words)) if has_note else "",
                    "label": str(label),
                    "crp": f"{draw.normal(40 + 25 * label, 25):.1f}",
                    "ldh": f"{draw.normal(260, 60):.1f}",
                }
            )


def compare_modalities(folder, *overrides):
    """Run a federation with its single-modality baselines; return its record."""
    launch_run(RunSpec.compose([*QUICK, "baselines.modalities=true", *overrides], RunDir(folder)))
    return load_run_record(folder)


def check_fusion_is_sound(record):
    """Assert that no single modality is significantly better, or that the first notice is of that."""
    gains = list_modality_gains(record.comparison)
    assert {each.name for each in gains} == {"image only", "text only", "tabular only"}
    losing = [each.name for each in gains if judge_gain(each.gain) is Verdict.worse]
    told = [notice.title for notice in warn_fusion_loses(record)]
    assert len(told) == len(losing)
    first = [notice.title for notice in collect_notices(record)[: len(told)]]
    assert first == told
    return losing


@pytest.mark.parametrize(
    ("share_of_notes", "image_signal"),
    [
        pytest.param(0.1, 60, id="few notes"),
        pytest.param(1.0, 60, id="many notes"),
        pytest.param(1.0, 0, id="an uninformative modality"),
    ],
)
def test_synthetic_hospitals(tmp_path, share_of_notes, image_signal):
    for seed, site in enumerate(SITES):
        write_patients(tmp_path / "data" / site, seed, share_of_notes, image_signal)
    data = [f"data.root='{tmp_path / 'data'}'", f"data.sites=[{','.join(SITES)}]", "data.image.size=16"]
    absent = [f"~data.tabular.{name}" for name in ("age", "sex", "lymphocytes", "spo2")]
    record = compare_modalities(tmp_path / "run", *data, *absent)
    assert check_fusion_is_sound(record) == []
    assert record.test_result.metrics["auroc"].low > 0.6  # a model that learned nothing would lose to nobody


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ["experiment=cxr", "data.root={}/fed_cxr", "data.image.size=96"],
        ["experiment=derm", "data.root={}/fed_derm", "data.image.size=64"],
    ],
    ids=["cxr", "derm"],
)
def test_real_hospitals(shared_data, tmp_path, words):
    weights = shared_data / "image_encoder" / "mobilenet_v2_imagenet_fp16.safetensors"
    words = [each.format(shared_data) for each in words] + [f"model.image.weights={quote_value(weights)}"]
    record = compare_modalities(tmp_path / "run", *words)
    check_fusion_is_sound(record)
    assert record.test_result.metrics["auroc"].low > 0.6
