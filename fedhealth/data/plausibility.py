"""Look for signs that a prepared cohort is not what it should be: pure functions of its rows.

None of them is proof of a fault. They are what a person would see who looked at the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fedhealth.config.schema import DataConfig, TaskKind
from fedhealth.data.findings import DataFinding, FindingKind
from fedhealth.data.tabular import count_features

_MOST_UNLABELLED = 0.5  # share of the rows
_FEWEST = 5  # rows from which on a pattern is not chance
_MOST_ROWS, _MANY_ROWS = 0.5, 10  # of one patient: share, and the number from which on it is looked at


def find_cohort_findings(
    rows: Mapping[str, np.ndarray], texts: Sequence[str], data: DataConfig
) -> Iterator[DataFinding]:
    """Yield what is implausible.

    Args:
        rows: the arrays of a `SiteDataset`, by name.
        texts: of the rows.
        data: the consortium's description.

    """
    yield from _check_patients(rows["patient"])
    yield from _check_labels(rows, data)
    has = {
        "an image": rows["image_index"] >= 0,
        "a text": np.array([bool(text) for text in texts], bool),
        "a clinical value": rows["tabular_present"],
    }
    for name, present in has.items():
        yield from find_one_sided(name, present, rows["labels"], data)
    yield from _check_columns(rows, has["a text"], data)


def name_class(data: DataConfig, column: int, value: float) -> str:
    """Return the name of a class, with the label column where there are several."""
    if data.task.kind is TaskKind.multilabel:
        return f"{data.columns.labels[column]}={int(value)}"
    return data.task.classes[int(value)]


def find_one_sided(name: str, present: np.ndarray, labels: np.ndarray, data: DataConfig) -> Iterator[DataFinding]:
    """Yield a finding if only rows of one class have something: a model then learns who has it.

    Args:
        name: of what rows have, with its article.
        present: bool [N].
        labels: float32 [N, K]; NaN = missing.
        data: the consortium's description.

    """
    for column in range(labels.shape[1]):
        known = ~np.isnan(labels[:, column])
        here, there = (np.unique(labels[known & mask, column]) for mask in (present, ~present))
        if (known & present).sum() >= _FEWEST and len(here) == 1 and set(there) - set(here):
            yield DataFinding(
                FindingKind.modalities,
                f"Only rows of class {name_class(data, column, here[0])} have {name}: the label can be read from it.",
                True,
            )


def _check_patients(patient: np.ndarray) -> Iterator[DataFinding]:
    counts = np.unique(patient, return_counts=True)[1]
    if len(patient) >= _MANY_ROWS and counts.max() > _MOST_ROWS * len(patient):
        yield DataFinding(
            FindingKind.patients,
            f"One patient has {counts.max()} of {len(patient)} rows: the identifier may be a placeholder, such as "
            "ANONYMOUS. Splits and privacy budgets are per patient.",
            True,
        )


def _check_labels(rows: Mapping[str, np.ndarray], data: DataConfig) -> Iterator[DataFinding]:
    labels, train = rows["labels"], rows["split"] == 0
    unlabelled = int(np.isnan(labels).all(axis=1).sum())
    if unlabelled >= _FEWEST and unlabelled >= _MOST_UNLABELLED * len(labels):
        text = f"{unlabelled} of {len(labels)} rows have no label: the table of labels may not match."
        yield DataFinding(FindingKind.labels, text, True)
    for column in range(labels.shape[1]):
        values = labels[train, column]
        classes = np.unique(values[~np.isnan(values)])
        if len(classes) == 1:
            name = name_class(data, column, classes[0])
            text = f"Every labelled training row is of one class ({name})."
            yield DataFinding(FindingKind.labels, text, True)


def _check_columns(rows: Mapping[str, np.ndarray], has_text: np.ndarray, data: DataConfig) -> Iterator[DataFinding]:
    present = rows["tabular"][rows["tabular_present"]]
    empty = ["text"] * (data.columns.text is not None and not has_text.any())
    start = 0
    for name, variable in data.tabular.items():
        size = count_features({name: variable})
        block = present[:, start : start + size]
        start += size
        if not len(block) or (block[:, -1] == 1).all():
            empty.append(name)
        elif len(block) > 1 and (block == block[0]).all():
            yield DataFinding(FindingKind.values, f"Column {name!r} has the same value in every row.")
    if empty:
        yield DataFinding(FindingKind.values, f"No row has a value of {', '.join(empty)}.")
