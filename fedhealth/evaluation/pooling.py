"""Pool the predictions of several sites, for pooled metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedhealth.data.concat import concat_ids
from fedhealth.evaluation.predictions import Predictions


def pool_predictions(sites: Sequence[Predictions]) -> Predictions:
    """Return the predictions of all sites; patients of different sites stay distinct."""
    return Predictions(
        np.concatenate([site.scores for site in sites]),
        np.concatenate([site.labels for site in sites]),
        concat_ids([site.patient for site in sites]),
    )
