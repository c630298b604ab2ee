"""What a page is made of; the template draws these and knows nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cell:
    """A table cell, with a smaller second line."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its header."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A drawing with its title and what a person who cannot see it should be told."""

    title: str
    description: str
    figure: Figure


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        key: its anchor.
        title: its heading.
        lead: what it says, in one paragraph.
        charts: drawn side by side where there is room.
        tables: below them.
        notes: how to read it, in small print.
        details: (title, text) folded away.

    """

    key: str
    title: str
    lead: str
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
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
    """Something a reader must not overlook; `serious` where it limits what the result can be used for."""

    title: str
    text: str
    serious: bool = True


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        kind: what sort of page, above the title.
        title: its name.
        summary: the answer in one paragraph of plain words.
        gloss: what a reader must know to understand the summary, in small print.
        tiles: key figures.
        notices: what a reader must not overlook.
        sections: the rest.
        facts: (name, value), how it was made.
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
