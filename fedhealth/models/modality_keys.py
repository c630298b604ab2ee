"""Map array names to the parts of the model (modalities and the shared part); find the training rows of each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from fedhealth.data.dataset import SiteDataset

SHARED = "shared"
METHOD = "method."  # prefix of a method's own arrays beside the model: method.KIND or method.KIND.ARRAY


def get_tower(name: str) -> str:
    """Return the modality whose tower holds the array `name`, or `shared` for what every site trains.

    A missing-modality token is shared, because the sites that lack the modality train it. A method's array that
    belongs to an array of the model has the tower of that array.
    """
    parts = name.split(".")[2:] if name.startswith(METHOD) else name.split(".")
    return parts[1] if parts[:1] == ["towers"] and parts[2] != "missing" else SHARED


def find_training_rows(cohort: SiteDataset, modalities: frozenset[str]) -> dict[str, np.ndarray]:
    """Return the labelled training rows of each tower and of the shared part; without empty parts."""
    rows = cohort.rows("train")
    found = {
        SHARED: rows,
        "image": rows[cohort.image_index[rows] >= 0],
        "text": rows[[bool(cohort.texts[row]) for row in rows]] if len(rows) else rows,
        "tabular": rows[cohort.tabular_present[rows].astype(bool)],
    }
    return {
        tower: chosen for tower, chosen in found.items() if len(chosen) and (tower == SHARED or tower in modalities)
    }


def group_by_tower(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, int]]:
    """Return {tower: {array: number of values}} of named shapes."""
    towers: dict[str, dict[str, int]] = {}
    for name, shape in shapes.items():
        towers.setdefault(get_tower(name), {})[name] = math.prod(shape)
    return towers
