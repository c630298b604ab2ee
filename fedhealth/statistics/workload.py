"""The size of a site's training data, from which the plan and the budget of a private run follow."""

from __future__ import annotations

from itertools import chain

import numpy as np

from fedhealth.config.schema import Config
from fedhealth.data.dataset import SiteDataset, prepare_public_dataset
from fedhealth.statistics.shapes import get_modalities
from fedhealth.training.trainer import Workload


def measure_workload(config: Config, cohort: SiteDataset) -> Workload:
    """Return the workload of a site's own training rows and of the public ones, if there are any.

    Raises:
        DataError: the public data cannot be read.

    """
    cohorts = [each for each in (cohort, prepare_public_dataset(config.data)) if each is not None]
    rows = [(each, each.rows("train")) for each in cohorts]
    studies = [_count_studies(each.patient[chosen], each.study[chosen]) for each, chosen in rows]
    return Workload(tuple(chain.from_iterable(studies)), get_modalities(config))


def _count_studies(patient: np.ndarray, study: np.ndarray) -> list[int]:
    """Return the number of studies of each patient, from the patient and the study of every row."""
    pairs = np.unique(np.stack([patient, study]), axis=1)
    counts: list[int] = np.unique(pairs[0], return_counts=True)[1].tolist()
    return counts
