"""Map array names to the parts of the model (modalities and the shared part), and count training rows by part."""

from __future__ import annotations

import math
from collections.abc import Mapping

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


def group_by_tower(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, int]]:
    """Return {tower: {array: number of values}} of named shapes."""
    towers: dict[str, dict[str, int]] = {}
    for name, shape in shapes.items():
        towers.setdefault(get_tower(name), {})[name] = math.prod(shape)
    return towers


def count_training_rows(cohort: SiteDataset, modalities: frozenset[str]) -> dict[str, int]:
    """Return the number of labelled training rows for each tower and the shared part; without empty parts."""
    rows = cohort.rows("train")
    counts = {
        SHARED: len(rows),
        "image": int((cohort.image_index[rows] >= 0).sum()),
        "text": sum(bool(cohort.texts[row]) for row in rows),
        "tabular": int(cohort.tabular_present[rows].sum()),
    }
    return {tower: count for tower, count in counts.items() if count and (tower == SHARED or tower in modalities)}
