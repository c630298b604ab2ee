"""The parts of a page: the only objects that the HTML template knows."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cell:
    """A table cell, with a smaller second line."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table; the first cell of a row is its header."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A chart with its title and a text alternative for screen readers."""

    title: str
    description: str
    figure: Figure


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        key: anchor of the section in the page.
        title: heading.
        lead: the section's statement, in one paragraph.
        charts: side by side where there is room.
        tables: below the charts.
        notes: how to read the section, in small print.
        details: (title, text), collapsed.

    """

    key: str
    title: str
    lead: str
    charts: tuple[Chart, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    notes: tuple[str, ...] = ()
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Tile:
    """One key figure."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Notice:
    """A warning or note for the reader; `serious` if it limits what the result can be used for."""

    title: str
    text: str
    serious: bool = True


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        kind: kind of page, shown above the title.
        title: its name.
        summary: the result in one paragraph of plain text.
        gloss: explanation of the terms in the summary, in small print.
        tiles: key figures.
        notices: warnings and notes.
        sections: in reading order.
        facts: (name, value), how the run was made.
        config: the resolved configuration.

    """

    kind: str
    title: str
    summary: str
    gloss: str = ""
    tiles: tuple[Tile, ...] = ()
    notices: tuple[Notice, ...] = ()
    sections: tuple[Section, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    config: str = ""
