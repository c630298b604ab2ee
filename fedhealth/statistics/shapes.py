"""The shapes of the statistics that a site sends; lead and egress gate derive them from the configuration alone."""

from __future__ import annotations

from fedhealth.config.capabilities import is_private_trainer
from fedhealth.config.schema import Config, Purpose
from fedhealth.evaluation import subgroups
from fedhealth.evaluation.metrics import LOGIT_LIMIT
from fedhealth.evaluation.noised_scores import NOISED_LOGIT_LIMIT, count_score_cells
from fedhealth.models.multimodal import MODALITIES, get_output_width
from fedhealth.privacy.mechanisms.histogram_release import (
    compute_histogram_sensitivity,
    compute_table_sensitivity,
    count_moved,
)
from fedhealth.privacy.mechanisms.noised_counts import NOISE
from fedhealth.protocol.messages import DESCRIBE, EVALUATE, TRAIN
from fedhealth.statistics import descriptive, heterogeneity

SIDES = ("positives", "negatives")
Shapes = dict[str, tuple[int, ...]]


def get_modalities(config: Config) -> frozenset[str]:
    """Return the modalities that the configured model has a tower for."""
    return frozenset(name for name in MODALITIES if getattr(config.model, name))


def get_score_bins(config: Config) -> tuple[int, float]:
    """Return the number of bins that scores are counted in, and the largest logit that has a bin of its own."""
    if is_private_trainer(config.privacy):
        return count_score_cells(float(config.privacy.get("epsilon") or 0.0)), NOISED_LOGIT_LIMIT
    return config.evaluation.bins, LOGIT_LIMIT


def compute_shared_sensitivity(config: Config, kind: str) -> float:
    """Return the sensitivity of the tables in a reply whose noise the sites share; 0 if they share none.

    Args:
        config: of the run.
        kind: message type of the request.

    """
    if config.privacy.get("noise") != "shared":
        return 0.0
    if kind == EVALUATE and config.privacy.get("score_release_share"):
        variables = len(subgroups.list_subgroup_variables(config)) if subgroups.releases_subgroups(config) else 0
        return compute_histogram_sensitivity(get_output_width(config.data), variables)
    if kind == DESCRIBE:
        tables = len(descriptive.list_quantities(config))
        return compute_table_sensitivity(tables, count_moved(str(config.privacy["unit"])))
    return 0.0


def get_statistic_shapes(config: Config) -> dict[str, Shapes]:
    """Return the shape of each vector (int64) in a site's reply, by message type."""
    if config.purpose is Purpose.describe:
        return {DESCRIBE: descriptive.get_descriptive_shapes(config)}
    histogram: tuple[int, ...] = (get_output_width(config.data), get_score_bins(config)[0])
    noise = (NOISE,) if is_private_trainer(config.privacy) else ()
    scored: dict[str, Shapes] = {
        split: {f"{split}.{side}": histogram for side in SIDES} | {f"{split}.{name}": (1,) for name in noise}
        for split in ("validation", "test")
    }
    differences = heterogeneity.get_heterogeneity_shapes(config.data, get_modalities(config))
    training: Shapes = {"train.examples": (1,), "train.loss": (1,)} | differences
    final = scored["validation"] | scored["test"] | subgroups.get_subgroup_shapes(config)
    return {TRAIN: training | scored["validation"], EVALUATE: final}
