"""A private run's report states its noise, shows no impossible count, and says what is lost."""

import re

import numpy as np

from fedhealth.export.model_card import build_model_card
from fedhealth.report.render import render_run_report
from tests.fedhealth.run_writer import RunWriter, interval

NOISE = {"count_std": 6.7, "studies_std": 42.4, "cells": 20, "classes_scored": 1}


def make_noised(folder, scored=True):
    """Return a private run in the hospitals: no exact scores, and histograms with negative counts."""
    run = RunWriter(folder)
    run.make_private(8)
    run.declare(data_are_local=False)
    run.comparison = None
    generator = np.random.default_rng(0)
    truth = {"test.positives": np.geomspace(1, 200, 20), "test.negatives": np.geomspace(300, 1, 20)}
    run.histograms = {name: (counts + generator.normal(0, 6.7, 20))[None] for name, counts in truth.items()}
    run.histograms["test.noise_std"] = np.array(6.7)
    assert any((counts < 0).any() for counts in run.histograms.values())
    for split in ("test", "validation"):
        run.evaluation[split]["noise"] = NOISE | ({} if scored else {"classes_scored": 0})
        if not scored:
            run.evaluation[split] |= {name: interval(None) for name in ("auroc", "auprc", "calibration_error")}
    return run


def read_text(page):
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")


def test_the_size_of_the_noise_is_stated(tmp_path):
    folder = make_noised(tmp_path / "run").write()
    page = read_text(render_run_report(folder))
    assert "about 1,234 ± 84 test studies" in page
    assert "standard deviation of 6.7 studies in every count and 42 in the number of studies" in page
    assert "at least 120 each" in page
    assert "Calibration" in page
    assert "standard deviation of 6.7 studies" in read_text(build_model_card(folder))


def test_what_is_lost_in_the_noise_is_said_to_be(tmp_path):
    run = make_noised(tmp_path / "run", scored=False)
    run.histograms = {
        name: np.asarray(counts) / (1 if name.endswith("std") else 20) for name, counts in run.histograms.items()
    }
    page = read_text(render_run_report(run.write()))
    assert (
        "AUROC on about 1,234 ± 84 test studies that no hospital trained on is not reported: lost in the noise" in page
    )
    assert "ROC curve" not in page
    assert "belong to one class" not in page


def test_a_rehearsal_shows_private_scores_beside_the_exact_ones(tmp_path):
    run = make_noised(tmp_path / "run")
    run.declare(data_are_local=True)
    run.comparison = RunWriter(tmp_path).comparison
    page = read_text(render_run_report(run.write()))
    assert "As the members of a private consortium would see it, with noise" in page
    assert page.index("0.882 [0.862, 0.902]") < page.index("0.881 [0.861, 0.901]")
