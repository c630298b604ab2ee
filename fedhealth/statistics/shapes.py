"""Which statistics a site answers with: known from the configuration alone, at the lead and at the site's gate."""

from __future__ import annotations

from fedhealth.config.schema import Config, Purpose
from fedhealth.evaluation import subgroups
from fedhealth.models.multimodal import MODALITIES, output_width
from fedhealth.protocol.messages import DESCRIBE, EVALUATE, TRAIN
from fedhealth.statistics import descriptive, heterogeneity

SIDES = ("positives", "negatives")
Shapes = dict[str, tuple[int, ...]]


def modalities_of(config: Config) -> frozenset[str]:
    """Return the modalities that the configured model has a tower for."""
    return frozenset(name for name in MODALITIES if getattr(config.model, name))


def statistic_shapes(config: Config) -> dict[str, Shapes]:
    """Return, by message type, the shape of every vector (int64) that an institution answers with."""
    if config.purpose is Purpose.describe:
        return {DESCRIBE: descriptive.shapes(config)}
    histogram: tuple[int, ...] = (output_width(config.data), config.evaluation.bins)
    scored: dict[str, Shapes] = {
        split: {f"{split}.{side}": histogram for side in SIDES} for split in ("validation", "test")
    }
    differences = heterogeneity.shapes(config.data, modalities_of(config))
    training: Shapes = {"train.examples": (1,), "train.loss": (1,)} | differences
    final = scored["validation"] | scored["test"] | subgroups.shapes(config)
    return {TRAIN: training | scored["validation"], EVALUATE: final}
