"""The shapes of the statistics that a site sends; lead and egress gate derive them from the configuration alone."""

from __future__ import annotations

from fedhealth.config.schema import Config, Purpose
from fedhealth.evaluation import subgroups
from fedhealth.models.multimodal import MODALITIES, get_output_width
from fedhealth.protocol.messages import DESCRIBE, EVALUATE, TRAIN
from fedhealth.statistics import descriptive, heterogeneity

SIDES = ("positives", "negatives")
Shapes = dict[str, tuple[int, ...]]


def get_modalities(config: Config) -> frozenset[str]:
    """Return the modalities that the configured model has a tower for."""
    return frozenset(name for name in MODALITIES if getattr(config.model, name))


def get_statistic_shapes(config: Config) -> dict[str, Shapes]:
    """Return the shape of each vector (int64) in a site's reply, by message type."""
    if config.purpose is Purpose.describe:
        return {DESCRIBE: descriptive.get_descriptive_shapes(config)}
    histogram: tuple[int, ...] = (get_output_width(config.data), config.evaluation.bins)
    scored: dict[str, Shapes] = {
        split: {f"{split}.{side}": histogram for side in SIDES} for split in ("validation", "test")
    }
    differences = heterogeneity.get_heterogeneity_shapes(config.data, get_modalities(config))
    training: Shapes = {"train.examples": (1,), "train.loss": (1,)} | differences
    final = scored["validation"] | scored["test"] | subgroups.get_subgroup_shapes(config)
    return {TRAIN: training | scored["validation"], EVALUATE: final}
