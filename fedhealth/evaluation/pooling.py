"""Several sites' predictions as one table: what a pooled score is computed from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedhealth.data.concat import apart
from fedhealth.evaluation.predictions import Predictions


def pool_predictions(sites: Sequence[Predictions]) -> Predictions:
    """Return the predictions of all sites, patients kept apart."""
    return Predictions(
        np.concatenate([site.scores for site in sites]),
        np.concatenate([site.labels for site in sites]),
        apart([site.patient for site in sites]),
    )
