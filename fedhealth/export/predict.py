"""Score new studies with an exported model: image files, a note, clinical values; any of them may be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from fedhealth.config.schema import DataConfig, TaskKind
from fedhealth.data.batches import Examples, Source
from fedhealth.data.image.load import read_image
from fedhealth.data.manifest import read_table
from fedhealth.data.tabular import encode
from fedhealth.errors import DataError
from fedhealth.evaluation.predictions import predict
from fedhealth.export.model import Exported
from fedhealth.models.multimodal import Tower


@dataclass(frozen=True)
class Study:
    """One study.

    Attributes:
        images: files; their logits are averaged.
        text: a note; empty where there is none.
        values: clinical variables by name, as text; a missing one is left out or empty.

    """

    images: tuple[Path, ...] = ()
    text: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


def score(exported: Exported, studies: Sequence[Study]) -> np.ndarray:
    """Return probabilities float64 [studies, K]: of the positive class, or of each class.

    Raises:
        DataError: a study has nothing that the model could look at, an unreadable image, or an impossible value.

    """
    for place, study in enumerate(studies, start=1):
        _check(study, exported, place)
    rows = [(place, image) for place, study in enumerate(studies) for image in study.images or (None,)]
    owner = np.array([place for place, _ in rows], np.int64)
    sources = _sources(exported, studies, rows, owner)
    labels = np.full((len(rows), len(exported.data.columns.labels)), np.nan, np.float32)
    examples = Examples(sources, labels, owner, owner)
    return predict(exported.model, examples, np.arange(len(rows)), exported.data.task.kind).scores


def class_names(data: DataConfig) -> list[str]:
    """Return the name of each probability."""
    if data.task.kind is TaskKind.binary:
        return [data.task.classes[1]]
    return list(data.columns.labels if data.task.kind is TaskKind.multilabel else data.task.classes)


def read_studies(path: Path, data: DataConfig) -> tuple[list[str], list[Study]]:
    """Return the ids and the studies of a table with the columns that the model was trained with; labels are ignored.

    Raises:
        DataError: there is no such table, or it lacks a column.

    """
    table, columns = read_table(path), data.columns
    named = [columns.patient, columns.study, columns.image, columns.text, columns.text_path]
    if absent := [name for name in [*filter(None, named), *data.tabular] if name not in table.columns]:
        raise DataError(f"{path}: missing column {', '.join(absent)}.", "Leave cells empty, but keep the columns.")
    rows = [{str(key): str(cell).strip() for key, cell in row.items()} for row in table.to_dict("records")]
    ids = [" ".join(row[name] for name in (columns.patient, columns.study) if name) for row in rows]
    return ids, [_study(row, data, path.parent) for row in rows]


def _study(row: Mapping[str, str], data: DataConfig, folder: Path) -> Study:
    columns = data.columns
    images = [name.strip() for name in row[columns.image].split(";")] if columns.image else []
    text = row[columns.text] if columns.text else ""
    if columns.text_path and row[columns.text_path]:
        text = (folder / row[columns.text_path]).read_text("utf-8", errors="replace").strip()
    return Study(tuple(folder / name for name in images if name), text, {name: row[name] for name in data.tabular})


def _check(study: Study, exported: Exported, place: int) -> None:
    if unknown := set(study.values) - set(exported.data.tabular):
        known = ", ".join(exported.data.tabular) or "none"
        raise DataError(f"Study {place}: the model knows no {sorted(unknown)[0]!r}.", f"Its variables: {known}.")
    has = {"image": bool(study.images), "text": bool(study.text), "tabular": any(study.values.values())}
    if not any(has[name] for name in exported.model.modalities):
        wanted = ", ".join(sorted(exported.model.modalities))
        raise DataError(f"Study {place} has nothing that the model could look at.", f"It looks at: {wanted}.")


def _sources(
    exported: Exported, studies: Sequence[Study], rows: Sequence[tuple[int, Path | None]], owner: np.ndarray
) -> dict[str, Source]:
    data, towers = exported.data, exported.model.towers
    found: dict[str, Source] = {}
    if "image" in towers:
        files = [image for _, image in rows if image is not None]
        shape = (0, data.image.channels, data.image.size, data.image.size)
        decoded = [read_image(file, data.image.size, data.image.channels) for file in files]
        held = np.array([image is not None for _, image in rows])
        found["image"] = Source(np.stack(decoded) if decoded else np.zeros(shape, np.uint8), _index(held))
    if "text" in towers:
        tokenize = cast(Any, cast(Tower, towers["text"]).encoder).tokenize
        held = np.array([bool(studies[place].text) for place in owner])
        texts = [studies[place].text for place in owner if studies[place].text]
        found["text"] = Source(tokenize(texts) if texts else np.zeros((0, 1), np.int64), _index(held))
    if "tabular" in towers:
        cells = {f"tabular.{name}": [studies[place].values.get(name, "") for place in owner] for name in data.tabular}
        table = pd.DataFrame({"line": owner + 1, **cells})
        features, present = encode(table, data.tabular, Path("the studies"))
        found["tabular"] = Source(features, np.where(present, np.arange(len(owner)), -1))
    return found


def _index(held: np.ndarray) -> np.ndarray:
    """Return where each row's value lies; -1 = missing."""
    return np.where(held, np.cumsum(held) - 1, -1)
