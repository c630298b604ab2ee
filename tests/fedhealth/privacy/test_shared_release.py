"""Scores with shared noise: all histograms of a draw have the noise of their common sensitivity, or nothing leaves."""

import math

import numpy as np
import pytest

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.plan import PrivacyRequest
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.privacy.mechanisms.noise_share import NoiseShare
from fedhealth.privacy.mechanisms.noised_counts import decode_counts
from fedhealth.privacy.statistics_release import release_score_histograms
from fedhealth.secagg.primitives.noise_grid import compute_grid_step

HONEST, COLUMNS = 3, 2
BUDGET = PrivacyBudget("a", 8.0)
REQUEST = PrivacyRequest("patient", 8.0, 0.1, 1, 50, Clipping(1.0), score_release_share=0.1, shares=HONEST)
SIDES = {f"{split}.{side}": (COLUMNS, 12) for split in ("validation", "test") for side in ("positives", "negatives")}
GROUPS = {"groups.sex": (2, 2, COLUMNS, 12), "groups.age": (2, 3, COLUMNS, 12)}


def release(folder, shapes, counts_moved, part=0.5):
    """Release empty tables whose shares are made for so many moved counts; return them and the share."""
    plan = BUDGET.make_plan(REQUEST, 1000)
    std = plan.score_release_event.noise_multiplier * math.sqrt(counts_moved / HONEST)
    share = NoiseShare(std, compute_grid_step(std), 1e6, HONEST)
    tables = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
    accounting = AccountingContext("run", "north", folder, 50, 50, "evaluate", shares=HONEST)
    shares = dict.fromkeys(tables, share)
    return release_score_histograms(BUDGET, plan, tables, accounting, part, shares), share


@pytest.mark.parametrize(("shapes", "moved"), [(SIDES, COLUMNS), (SIDES | GROUPS, 3 * COLUMNS)])
def test_every_histogram_has_the_noise_of_all_together(tmp_path, shapes, moved):
    left, share = release(tmp_path, shapes, moved)
    assert set(left) >= set(shapes)
    for group in {name.partition(".")[0] for name in shapes}:
        assert decode_counts(left[f"{group}.noise"])[0] == pytest.approx(share.std**2, rel=1e-3)
    drawn = np.concatenate([left[name].ravel() for name in shapes]) * share.step
    assert abs(drawn.var() / share.std**2 - 1) < 5 * math.sqrt(2 / len(drawn))


def test_shares_for_fewer_moved_counts_are_refused_and_book_nothing(tmp_path):
    with pytest.raises(PrivacyError, match="less noise than this site's plan promises"):
        release(tmp_path, SIDES | GROUPS, COLUMNS)
    path = get_ledger_path(tmp_path, "a")
    assert not path.exists() or not verify_ledger(path)


def test_without_a_part_for_subgroups_a_sum_that_asks_for_them_is_refused(tmp_path):
    with pytest.raises(PrivacyError, match="shares the noise of other tables"):
        release(tmp_path, SIDES | GROUPS, 3 * COLUMNS, part=0.0)
