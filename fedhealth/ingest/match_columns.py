"""Find out by which columns tables and images can be joined: compare every column with the headers of the images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from fedhealth.data.identifiers import LOOSE_KEYS, RULES, Identifier, find_joining_rules, make_code, make_identifier
from fedhealth.data.image.dicom import open_dicom
from fedhealth.data.image.load import guard_parsers
from fedhealth.data.text_table import TextTable
from fedhealth.errors import DataError
from fedhealth.ingest.header import TAGS, HeaderFields, extract_fields
from fedhealth.ingest.settings import KEYS, IngestLimits
from fedhealth.ingest.source import IngestSource, SourceFile
from fedhealth.ingest.worker_pool import FailedTask, WorkerPool

MOST_FILES = 5000
"""Files whose headers are read for a proposal."""

LEAST_MATCHED = 0.5


@dataclass(frozen=True)
class KeyMatch:
    """A column that joins a table with images.

    Attributes:
        key: of `settings.KEYS`.
        column: of the table.
        matched: how many of its identifiers are those of images, under the rules.
        codes: how many identifiers it has.
        images: how many the images have.
        rules: needed for the match.

    """

    key: str
    column: str
    matched: int
    codes: int
    images: int
    rules: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the identifiers that could match."""
        return self.matched / max(1, min(self.codes, self.images))


@dataclass(frozen=True)
class FolderHeaders:
    """The headers of a folder's images.

    Attributes:
        files: how many files there are.
        fields: by file name, of those that are images.

    """

    files: int
    fields: Mapping[str, HeaderFields]


def read_headers(source: IngestSource) -> FolderHeaders:
    """Read the headers of the source's first files, in workers, because files may be damaged.

    Raises:
        DataError: the source has no file.

    """
    items = list(source.items())
    if not items:
        raise DataError("The folder contains no file.", "Name the folder of the images.")
    chosen, limits, found = list(islice(items, MOST_FILES)), IngestLimits(), dict[str, HeaderFields]()
    workers = min(len(os.sched_getaffinity(0)), len(chosen))
    with WorkerPool[SourceFile, HeaderFields | None](
        partial(_read_one_header, source), workers, limits.seconds, limits.megabytes
    ) as pool:
        for item, result in pool.iterate_results(chosen):
            if result is not None and not isinstance(result, FailedTask):
                found[item.name] = result
    return FolderHeaders(len(items), dict(sorted(found.items())))


def _read_one_header(source: IngestSource, item: SourceFile) -> HeaderFields | None:
    try:
        with guard_parsers(), source.open(item) as file:
            return extract_fields(open_dicom(file, TAGS))
    except MemoryError:
        raise
    except Exception:  # a file that is no image; on damaged ones the parsers raise almost any exception
        return None


def find_keys(table: TextTable, headers: FolderHeaders) -> list[KeyMatch]:
    """Return the best column for each key of the table, the finest key first."""
    found = []
    for key in KEYS:
        images = _list_identifiers(key, headers)
        matches = (_match_column(key, column, cells, images) for column, cells in table.columns.items())
        best = max(matches, key=lambda match: (match.share, match.matched), default=None)
        if best is not None and best.matched and best.share >= LEAST_MATCHED:
            found.append(best)
    return found


def _list_identifiers(key: str, headers: FolderHeaders) -> set[Identifier]:
    if key == "file":
        return {make_identifier(key, name) for name in headers.fields}
    return {each.get_identifier(key) for each in headers.fields.values()} - {Identifier("", "")}


def _match_column(key: str, column: str, cells: Sequence[str], images: Iterable[Identifier]) -> KeyMatch:
    wanted, known = {make_identifier(key, cell) for cell in set(cells)} - {Identifier("", "")}, set(images)
    rules = _find_rules(wanted, known) if key in LOOSE_KEYS else ()
    ours, theirs = ({make_code(each, rules) for each in group} for group in (wanted, known))
    return KeyMatch(key, column, len(ours & theirs), len(ours), len(theirs), rules)


def _find_rules(ours: Iterable[Identifier], theirs: Iterable[Identifier]) -> tuple[str, ...]:
    """Return the rules that are needed by identifiers that do not match without."""
    shapes = {each.code: each.shape for each in theirs}
    needed = {
        rule
        for each in ours
        if each.code in shapes and shapes[each.code] != each.shape
        for rule in find_joining_rules(each.shape, shapes[each.code], ())
    }
    return tuple(rule for rule in RULES if rule in needed)
