"""`fedhealth predict`: score new studies with an exported model."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from fedhealth.errors import ConfigError
from fedhealth.utils.atomic_io import write_atomic

ADVICE = "Research use: not a medical device. See the model card in README.md."


def run_predict(
    folder: Path,
    images: list[Path],
    note: str | None,
    values: list[str],
    table: Path | None,
    to: Path | None,
    own: Path | None,
) -> None:
    """Print the probabilities for one study, or for every row of a table.

    Raises:
        ConfigError: both a study and a table are given, or neither.
        FedhealthError: the model, an image, a value or the table cannot be used.

    """
    one = bool(images or note or values)
    if one == (table is not None):
        raise ConfigError("Give one study or a table.", "Use --image, --note, --value, or --table alone.")
    from fedhealth.export.model import load_model
    from fedhealth.export.predict import StudyInput, list_class_names, read_studies, score_studies

    exported = load_model(folder, own)
    names = list_class_names(exported.data)
    if table is None:
        study = StudyInput(tuple(images), _load_note(note), dict(map(_parse_value, values)))
        (probabilities,) = score_studies(exported, [study])
        found = {name: round(float(value), 6) for name, value in zip(names, probabilities, strict=True)}
        sys.stdout.write(json.dumps({"probabilities": found, "note": ADVICE}, indent=1) + "\n")
        return
    ids, studies = read_studies(table, exported.data)
    _write_csv(
        to,
        ["study", *names],
        ([key, *map(str, row)] for key, row in zip(ids, score_studies(exported, studies), strict=True)),
    )


def _write_csv(to: Path | None, head: list[str], rows: Iterable[list[str]]) -> None:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    if to:
        write_atomic(to, file.getvalue().encode())
    else:
        sys.stdout.write(file.getvalue())


def _load_note(note: str | None) -> str:
    """Return the note; `@FILE` reads it from a file."""
    if note is None or not note.startswith("@"):
        return note or ""
    try:
        return Path(note[1:]).read_text("utf-8", errors="replace").strip()
    except OSError as fault:
        raise ConfigError(f"The note {note[1:]} cannot be read ({fault.strerror}).", "Give --note=@FILE.") from fault


def _parse_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--value {text}: is not of the form name=value.", "Such as --value age=67.")
    return name, value
