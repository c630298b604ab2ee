"""What a page shows, as plain values for its template."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataTable:
    """A table: caption, head, and rows of texts; the first cell of a row is its header, with a link if there is one."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """A page: title, lines of text, tables, and links as (path, text)."""

    title: str
    lines: tuple[str, ...] = ()
    tables: tuple[DataTable, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
