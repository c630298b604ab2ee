"""Where a hospital's tables come from: files, or record systems that a class of `fedhealth.ingest.sources` asks.

A table is read completely by every ingest, because rows that were deleted or corrected must disappear.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedhealth.config.part_contracts import TABLE_SOURCE, build_part
from fedhealth.data.read_table import read_table
from fedhealth.data.text_table import TextTable
from fedhealth.ingest.settings import IngestTable
from fedhealth.utils.guarded_part import guard_part


class TableSource(Protocol):
    """A source of a table: the one place where another record system plugs in.

    It is built in every process that needs it, so building it must be cheap and must not connect.

    Attributes:
        name: of the table in messages.

    """

    @property
    def name(self) -> str:
        """The table's name in messages."""

    def describe_request(self) -> str:
        """Return what will be asked, as the person in charge of the system would check it; empty for a file.

        Raises:
            FedhealthError: the settings are wrong.

        """

    def read_table(self) -> TextTable:
        """Read the table.

        Raises:
            FedhealthError: the source cannot be reached, or too many of its records cannot be used.

        """


@dataclass(frozen=True)
class FileTable:
    """A table in a file."""

    path: Path

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def describe_request(self) -> str:
        """Return nothing: the settings name the file."""
        return ""

    def read_table(self) -> TextTable:
        """Read the file."""
        return read_table(self.path)


def build_table_source(table: IngestTable) -> TableSource:
    """Return the source of a table.

    Raises:
        FedhealthError: its settings are wrong.

    """
    if table.path is not None:
        return FileTable(table.path)
    source: TableSource = guard_part(build_part(table.source, "source", TABLE_SOURCE, _convert_="all"), TableSource)
    return source
