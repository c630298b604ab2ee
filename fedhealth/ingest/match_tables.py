"""Count how many identifiers of each table are those of images, before anything else is made of its rows.

A table whose identifiers are spelt differently would give every patient two rows, one without labels. So few matches
stop the ingest, and near misses (identifiers that a further rule makes equal) are shown by their shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from fedhealth.data.findings import DataFinding, FindingKind
from fedhealth.data.identifiers import LOOSE_KEYS, Identifier, find_joining_rules, make_code
from fedhealth.errors import DataError
from fedhealth.ingest.settings import IdentifierSettings
from fedhealth.ingest.tables import TableRows

_MEANINGS = {
    "patient": "Patient ID",
    "accession": "accession number",
    "study": "Study Instance UID",
    "instance": "SOP Instance UID",
    "file": "file name",
}


@dataclass(frozen=True)
class NearMiss:
    """Identifiers that differ in spelling only.

    Attributes:
        rules: that would make them equal.
        count: how many identifiers of the table, or of the images.
        shapes: two spellings, as shapes.
        line: of an example in the table; 0 for images.

    """

    rules: tuple[str, ...]
    count: int
    shapes: tuple[str, str]
    line: int


@dataclass(frozen=True)
class TableMatch:
    """How a table's identifiers match those of the images.

    Attributes:
        path: of the table.
        key: by which it is joined.
        images: number of different identifiers of images.
        codes: number of different identifiers in the table.
        matched: number of identifiers that are in both.
        near: identifiers that would match under a further rule.

    """

    path: str
    key: str
    images: int
    codes: int
    matched: int
    near: tuple[NearMiss, ...]

    @property
    def share(self) -> float:
        """Share of the identifiers that could match."""
        return self.matched / max(1, min(self.images, self.codes))


def match_table(table: TableRows, key: str, images: Mapping[str, Identifier], rules: Sequence[str]) -> TableMatch:
    """Compare one table with the images.

    Args:
        table: the table.
        key: by which it is joined.
        images: the identifiers of all images by their code under the rules; unknown shapes are empty.
        rules: the declared rules.

    """
    wanted = {code for code in table.keys[key] if code}
    matched = wanted & set(images)
    near = _find_near_misses(table, key, images, matched, rules) if key in LOOSE_KEYS else ()
    return TableMatch(table.path, key, len(images), len(wanted), len(matched), tuple(near))


def find_spelling_variants(images: Mapping[str, Identifier], rules: Sequence[str]) -> tuple[NearMiss, ...]:
    """Return patients of images that differ in spelling only."""
    first: dict[str, str] = {}
    found: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for identifier in images.values():
        shape = first.setdefault(identifier.code, identifier.shape)
        if identifier.shape and shape != identifier.shape:
            joining = find_joining_rules(shape, identifier.shape, rules)
            found.setdefault(joining, []).append((shape, identifier.shape))
    return tuple(NearMiss(joining, len(pairs), pairs[0], 0) for joining, pairs in found.items() if joining)


def check_matches(matches: Iterable[TableMatch], settings: IdentifierSettings) -> None:
    """Stop if too few identifiers match.

    Raises:
        DataError: with the near misses and the rules that would join them.

    """
    poor = [each for each in matches if each.codes and each.images and each.share < settings.min_matched]
    if not poor:
        return
    rules = list(dict.fromkeys(rule for each in poor for near in each.near for rule in near.rules))
    declared = ", ".join([*settings.rules, *rules])
    advice = (
        f"If these are the same patients, set identifiers: {{rules: [{declared}]}}."
        if rules
        else "Correct keys: leading zeros lost in a spreadsheet, or another identifier."
    )
    least = f"identifiers.min_matched (now {settings.min_matched:g})"
    raise DataError(
        "\n".join(describe_match(each) for each in poor),
        f"{advice} If few matches are right, lower {least}.",
    )


def describe_match(match: TableMatch) -> str:
    """Return a sentence about a table's matches, with the near misses."""
    name = _MEANINGS[match.key]
    text = f"{PurePath(match.path).name}: {match.matched} of its {match.codes} identifiers ({name}) are those of images"
    text += f"; the images have {match.images}."
    return text + "".join(f" {_describe_near_miss(near)}" for near in match.near)


def find_match_findings(matches: Iterable[TableMatch], variants: Iterable[NearMiss]) -> Iterator[DataFinding]:
    """Yield what a person must know of the matches."""
    for match in matches:
        if match.near or (match.codes and match.share < 1):
            serious = bool(match.near) or match.share < 0.5
            yield DataFinding(FindingKind.identifiers, describe_match(match), serious)
    for near in variants:
        yield DataFinding(
            FindingKind.identifiers,
            f"{near.count} patient(s) of the images differ from others in spelling only ({near.shapes[0]!r} and "
            f"{near.shapes[1]!r}; 9 is any digit): if they are the same people, set identifiers.rules: "
            f"[{', '.join(near.rules)}].",
            True,
        )


def _find_near_misses(
    table: TableRows, key: str, images: Mapping[str, Identifier], matched: set[str], rules: Sequence[str]
) -> Iterator[NearMiss]:
    shapes = {identifier.code: identifier.shape for identifier in images.values() if identifier.shape}
    counts: Counter[tuple[str, ...]] = Counter()
    examples: dict[tuple[str, ...], tuple[tuple[str, str], int]] = {}
    seen = set(matched)
    for place, identifier in enumerate(table.identifiers[key]):
        code = table.keys[key][place]
        if code in seen or identifier.code not in shapes:
            continue
        seen.add(code)
        shape = shapes[identifier.code]
        joining = find_joining_rules(identifier.shape, shape, rules)
        counts[joining] += 1
        examples.setdefault(joining, ((identifier.shape, shape), table.lines[place]))
    for joining, count in counts.most_common():
        if joining:
            yield NearMiss(joining, count, *examples[joining])


def _describe_near_miss(near: NearMiss) -> str:
    table, image = near.shapes
    return (
        f"{near.count} more would match by the rule {' and '.join(near.rules)}: line {near.line} is spelt {table!r}, "
        f"the images' spelling is {image!r} (9 is any digit)."
    )


def index_identifiers(identifiers: Iterable[Identifier], rules: Sequence[str]) -> dict[str, Identifier]:
    """Return the identifiers by their code under the rules."""
    return {make_code(each, rules): each for each in set(identifiers) if each.code}
