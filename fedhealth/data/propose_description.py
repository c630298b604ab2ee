"""Propose a consortium's description of a manifest (`conf/data/NAME.yaml`), for a person to edit.

Nothing that was computed from the patients is written, for every hospital gets the file: no mean, no spread, no range,
and no word that fewer than `FEWEST_PEOPLE` rows have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from fedhealth.data.column_profile import ColumnGuess, ColumnProfile, profile_column
from fedhealth.data.describe_column import describe_column, quote_word
from fedhealth.data.text_table import TextTable

_IMAGE = re.compile(r".+\.(?:png|jpe?g|tiff?|dcm|dicom)", re.IGNORECASE)
_PATIENT = re.compile(r".*(?:patient|subject|proband).*|pid|mrn", re.IGNORECASE)
_STUDY = re.compile(r".*(?:study|studie|accession|exam|fall).*", re.IGNORECASE)
_LABEL = re.compile(r".*(?:label|target|class|outcome|severe|diagnos).*", re.IGNORECASE)
_SPLITS = {"train", "validation", "test"}


def propose_description(table: TextTable, name: str) -> str:
    """Return the text of a description; `???` stands where a person has to decide."""
    profiles = [profile_column(column, cells) for column, cells in table.columns.items()]
    structure = dict(_find_structure(table, profiles))
    free = [each for each in profiles if each.name not in structure.values()]
    labels = [each for each in free if each.guess is ColumnGuess.words and _LABEL.fullmatch(each.name)]
    label = labels[0] if len(labels) == 1 else None
    return "\n".join([*_render_head(name), *_render_columns(structure, label), *_render_variables(free, label)]) + "\n"


def _render_head(name: str) -> Iterator[str]:
    yield "# Proposed by `fedhealth data propose`. Check every line and replace each ???."
    yield "# center, scale and valid_range are public reference values, never computed from a hospital's patients."
    yield f"name: {quote_word(name)}"
    yield "root: ???"
    yield 'manifest: "{site}/manifest.csv"'
    yield "sites: ???                       # the hospitals' names"


def _find_structure(table: TextTable, profiles: Iterable[ColumnProfile]) -> Iterator[tuple[str, str]]:
    """Yield the column of patient, study, image, text and split, where one can be told."""
    found: dict[str, str] = {}
    for each in profiles:
        values = {cell.strip() for cell in table.columns[each.name]} - {""}
        tests = {
            "split": bool(values) and values <= _SPLITS,
            "image": bool(values) and all(_IMAGE.fullmatch(value) for value in values),
            "patient": _PATIENT.fullmatch(each.name) is not None and each.guess is not ColumnGuess.person,
            "study": _STUDY.fullmatch(each.name) is not None,
            "text": each.guess is ColumnGuess.report,
        }
        role = next((role for role, is_it in tests.items() if is_it), "")
        if role and role not in found:
            found[role] = each.name
            yield role, each.name


def _render_columns(structure: dict[str, str], label: ColumnProfile | None) -> Iterator[str]:
    yield "columns:"
    if "patient" not in structure:
        yield "  patient: ???                   # UNDECIDED: without it, every row would be a patient of its own"
    yield from (f"  {role}: {quote_word(column)}" for role, column in structure.items())
    if label is None:
        yield '  labels: ["???"]                # UNDECIDED: no column, or several, look like the label'
        yield 'task: {kind: binary, classes: ["???", "???"]}  # UNDECIDED: the positive class last'
        return
    yield f"  labels: [{quote_word(label.name)}]"
    yield f"# {label.name}: {describe_column(label)}"
    classes = ", ".join(quote_word(level) for level in sorted(label.levels)) or '"???", "???"'
    kind = "binary" if len(label.levels) <= 2 else "multiclass"
    yield f"task: {{kind: {kind}, classes: [{classes}]}}  # CHECK: of two classes, the positive one last"


def _render_variables(free: Sequence[ColumnProfile], label: ColumnProfile | None) -> Iterator[str]:
    used = {ColumnGuess.number, ColumnGuess.words}
    variables = [each for each in free if each is not label and each.guess in used]
    yield "tabular:" if variables else "tabular: {}"
    for each in variables:
        yield f"  # {describe_column(each)}"
        yield f"  {quote_word(each.name)}:"
        yield from _render_variable(each)
    for each in free:
        if each is not label and each.guess not in used:
            yield f"# Not used: {each.name}: {describe_column(each)}"


def _render_variable(profile: ColumnProfile) -> Iterator[str]:
    if profile.guess is ColumnGuess.number:
        yield "    center: ???"
        yield "    scale: ???"
        yield "    # valid_range: [lowest, highest]"
        if len(profile.units) == 1:
            yield f"    unit: {quote_word(profile.units[0])}"
    else:
        yield "    kind: categorical"
        yield f"    levels: [{', '.join(quote_word(level) for level in profile.levels)}]"
        if profile.rare:
            yield f"    # UNDECIDED: {profile.rare} more word(s), each in few rows, are not shown"
    if profile.codes:
        yield f"    missing_codes: [{', '.join(quote_word(code) for code in profile.codes)}]  # CHECK"
