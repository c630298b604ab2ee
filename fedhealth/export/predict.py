"""Score new studies with an exported model from image files, a note and clinical values; any of them may be missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from fedhealth.config.schema import DataConfig, TaskKind
from fedhealth.config.windows import parse_windows
from fedhealth.data.examples import Examples, ModalitySource
from fedhealth.data.image.load import load_image
from fedhealth.data.read_table import read_table
from fedhealth.data.tabular import encode_columns
from fedhealth.errors import DataError
from fedhealth.evaluation.predictions import predict_studies
from fedhealth.export.model import ExportedModel
from fedhealth.models.encoders.checks import tokenize_texts
from fedhealth.models.multimodal import Tower
from fedhealth.utils.own_code import explained_own_code


@dataclass(frozen=True)
class StudyInput:
    """One study.

    Attributes:
        images: image files; the logits are averaged.
        text: a note; empty if there is none.
        values: clinical variables by name, as text; omit a missing one or leave it empty.

    A path may be given as text, and a value as a number.

    Raises:
        DataError: an argument has another type.

    """

    images: tuple[Path, ...] = ()
    text: str = ""
    values: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", _convert_images(self.images))
        object.__setattr__(self, "values", _convert_values(self.values))
        if not isinstance(self.text, str):
            raise DataError(f"StudyInput: text={self.text!r} is no text.", 'Give the note itself, "" if there is none.')


def _convert_images(images: object) -> tuple[Path, ...]:
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        raise DataError(f"StudyInput: images={images!r} is no list of files.", 'Give a list, such as ["chest.dcm"].')
    if wrong := [each for each in images if not isinstance(each, str | Path)]:
        raise DataError(f"StudyInput: images has {wrong[0]!r}, which is no path.", "Give the paths of image files.")
    return tuple(map(Path, images))


def _convert_values(values: object) -> dict[str, str]:
    if not isinstance(values, Mapping):
        raise DataError(f"StudyInput: values={values!r} is no dictionary.", 'Give one, such as {"age": 67}.')
    return {str(name): _convert_value(str(name), value) for name, value in values.items()}


def _convert_value(name: str, value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | Number):
        raise DataError(f"StudyInput: values[{name!r}]={value!r} is no number or text.", "Give one or the other.")
    return str(value)


@explained_own_code()
def score_studies(exported: ExportedModel, studies: Sequence[StudyInput]) -> np.ndarray:
    """Return probabilities float64 [studies, K]: of the positive class, or of each class; no row for no study.

    Raises:
        DataError: an argument has another type, or a study has no input that the model uses, an unreadable image, or
            an impossible value.

    """
    if not isinstance(exported, ExportedModel):
        raise DataError(
            f"score_studies: exported is a {type(exported).__name__}, not a model.",
            "Give `run.model`, or load_model(FOLDER).",
        )
    if not isinstance(studies, Sequence) or not all(isinstance(each, StudyInput) for each in studies):
        raise DataError(
            "score_studies: studies is no list of StudyInput.",
            'Give a list, such as [StudyInput(text="short of breath")].',
        )
    if not studies:
        return np.zeros((0, len(list_class_names(exported.data))))
    for number, study in enumerate(studies, start=1):
        _check_study(study, exported, number)
    rows = [(index, image) for index, study in enumerate(studies) for image in study.images or (None,)]
    owner = np.array([index for index, _ in rows], np.int64)
    sources = _build_sources(exported, studies, rows, owner)
    labels = np.full((len(rows), len(exported.data.columns.labels)), np.nan, np.float32)
    examples = Examples(sources, labels, owner, owner)
    return predict_studies(exported.model, examples, np.arange(len(rows)), exported.data.task.kind).scores


def list_class_names(data: DataConfig) -> list[str]:
    """Return the name of each probability."""
    if data.task.kind is TaskKind.binary:
        return [data.task.classes[1]]
    return list(data.columns.labels if data.task.kind is TaskKind.multilabel else data.task.classes)


def read_studies(path: Path, data: DataConfig) -> tuple[list[str], list[StudyInput]]:
    """Read studies and their ids from a table with the columns of the training data; labels are ignored.

    Raises:
        DataError: the table does not exist, or a column is missing.

    """
    table, columns = read_table(path), data.columns
    named = [columns.patient, columns.study, columns.image, columns.text, columns.text_path]
    if absent := [name for name in [*filter(None, named), *data.tabular] if name not in table.columns]:
        raise DataError(f"{path}: missing column {', '.join(absent)}.", "Leave cells empty, but keep the columns.")
    cells = zip(*table.columns.values(), strict=True)
    rows = [{name: cell.strip() for name, cell in zip(table.columns, row, strict=True)} for row in cells]
    ids = [" ".join(row[name] for name in (columns.patient, columns.study) if name) for row in rows]
    return ids, [_parse_study(row, data, path.parent) for row in rows]


def _parse_study(row: Mapping[str, str], data: DataConfig, folder: Path) -> StudyInput:
    columns = data.columns
    images = [name.strip() for name in row[columns.image].split(";")] if columns.image else []
    text = row[columns.text] if columns.text else ""
    if columns.text_path and row[columns.text_path]:
        text = (folder / row[columns.text_path]).read_text("utf-8", errors="replace").strip()
    return StudyInput(tuple(folder / name for name in images if name), text, {name: row[name] for name in data.tabular})


def _check_study(study: StudyInput, exported: ExportedModel, number: int) -> None:
    if unknown := set(study.values) - set(exported.data.tabular):
        known = ", ".join(exported.data.tabular) or "none"
        name = sorted(unknown)[0]
        raise DataError(f"Study {number}: the model has no variable {name!r}.", f"Its variables: {known}.")
    has = {"image": bool(study.images), "text": bool(study.text), "tabular": any(study.values.values())}
    if not any(has[name] for name in exported.model.modalities):
        wanted = ", ".join(sorted(exported.model.modalities))
        raise DataError(f"Study {number} has no input that the model uses.", f"The model uses: {wanted}.")


def _build_sources(
    exported: ExportedModel, studies: Sequence[StudyInput], rows: Sequence[tuple[int, Path | None]], owner: np.ndarray
) -> dict[str, ModalitySource]:
    data, towers = exported.data, exported.model.towers
    sources: dict[str, ModalitySource] = {}
    if "image" in towers:
        files = [image for _, image in rows if image is not None]
        shape = (0, data.image.channels, data.image.size, data.image.size)
        windows = parse_windows(data.image.window)
        decoded = [load_image(file, data.image.size, data.image.channels, windows) for file in files]
        is_present = np.array([image is not None for _, image in rows])
        sources["image"] = ModalitySource(
            np.stack(decoded) if decoded else np.zeros(shape, np.uint8), _build_row_index(is_present)
        )
    if "text" in towers:
        is_present = np.array([bool(studies[index].text) for index in owner])
        texts = [studies[index].text for index in owner if studies[index].text]
        sources["text"] = ModalitySource(
            tokenize_texts(cast(Tower, towers["text"]).encoder, texts) if texts else np.zeros((0, 1), np.int64),
            _build_row_index(is_present),
        )
    if "tabular" in towers:
        cells = {f"tabular.{name}": [studies[index].values.get(name, "") for index in owner] for name in data.tabular}
        table = pd.DataFrame({"line": owner + 1, **cells})
        features, present, _ = encode_columns(table, data.tabular, Path("the studies"))
        sources["tabular"] = ModalitySource(features, np.where(present, np.arange(len(owner)), -1))
    return sources


def _build_row_index(is_present: np.ndarray) -> np.ndarray:
    """Return the index of each row's value; -1 = missing."""
    return np.where(is_present, np.cumsum(is_present) - 1, -1)
