"""Which part of the model an array belongs to, and which parts a site can train."""

from __future__ import annotations

from fedhealth.data.dataset import Cohort

SHARED = "shared"
METHOD = "method."  # prefix of a method's own arrays beside the model: method.KIND or method.KIND.ARRAY


def tower_of(name: str) -> str:
    """Return the modality whose tower holds the array `name`, or `shared` for what every site trains.

    A missing-modality token is trained by the sites that lack the modality: it is shared. A method's array about an
    array of the model belongs where that one does.
    """
    parts = name.split(".")[2:] if name.startswith(METHOD) else name.split(".")
    return parts[1] if parts[:1] == ["towers"] and parts[2] != "missing" else SHARED


def training_rows(cohort: Cohort, modalities: frozenset[str]) -> dict[str, int]:
    """Return how many labelled training rows a site has for each tower and for the shared part; none are left out."""
    rows = cohort.rows("train")
    counts = {
        SHARED: len(rows),
        "image": int((cohort.image_index[rows] >= 0).sum()),
        "text": sum(bool(cohort.texts[row]) for row in rows),
        "tabular": int(cohort.tabular_present[rows].sum()),
    }
    return {tower: count for tower, count in counts.items() if count and (tower == SHARED or tower in modalities)}
