"""The audit of released scores, also by subgroup: right releases pass, missing or misplaced noise is found."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.mutants.subject import ROUNDS, list_failures, make_subject
from fedhealth.privacy import statistics_release
from fedhealth.privacy.auditing.release_checks import judge_checks
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms.histogram_release import SUBGROUP_PREFIX, noise_histograms
from fedhealth.privacy.mechanisms.noised_counts import encode_counts
from fedhealth.training.audit_bench import AuditBench
from fedhealth.training.release_audit import check_scores


def audit_scores(tmp_path, **settings):
    trainer, task = make_subject(**settings)
    place = AccountingContext("run", "hospital", tmp_path, 1, ROUNDS)
    return list_failures(
        judge_checks([*check_scores(AuditBench(trainer, task, replace(place, folder=tmp_path), None))])
    )


@pytest.mark.parametrize("part", [0.0, 0.25, 0.5])
def test_right_releases_pass(part, tmp_path):
    assert audit_scores(tmp_path, subgroup_release_share=part) == []


def leave_groups_exact(tables, multiplier, noise, part):
    return noise_histograms(tables, multiplier, noise, part) | {
        name: encode_counts(table) for name, table in tables.items() if name.startswith(SUBGROUP_PREFIX)
    }


def ignore_other_tables(tables, multiplier, noise, part):
    """Noise each kind of table as if it were released alone."""
    return noise_histograms(tables, multiplier * np.sqrt(1 - part), noise, part)


@pytest.mark.parametrize("bug", [leave_groups_exact, ignore_other_tables])
def test_wrong_noise_of_scores_by_subgroup_is_found(bug, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics_release, "noise_histograms", bug)
    assert any(
        "noise of the planned size: scores" in each for each in audit_scores(tmp_path, subgroup_release_share=0.5)
    )


def test_nothing_by_subgroup_leaves_without_a_part_of_the_budget(tmp_path):
    trainer, task = make_subject()
    place = AccountingContext("run", "hospital", tmp_path, 1, ROUNDS, purpose="evaluate")
    counts = np.zeros((1, 4), np.int64)
    left = trainer.release_statistics(
        {"test.positives": counts, "groups.sex": np.zeros((2, 2, 1, 4), np.int64)}, task, place
    )
    assert set(left) == {"test.positives", "test.noise"}
