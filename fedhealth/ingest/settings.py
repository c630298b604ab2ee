"""What a hospital says of its files: one YAML file, written by its own staff."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedhealth.types import SITE_ID

KEYS = ("file", "instance", "accession", "study", "patient")
"""What tables and images can be joined by, the finest first."""

TAKES = ("middle", "all", "spread", "mip")
STACKS = ("file", "series")


@dataclass(frozen=True)
class Table:
    """A table of reports, labels or laboratory values, CSV or Parquet.

    Attributes:
        path: the file.
        keys: its column for each of `KEYS` that it has.
        columns: its column for `text`, `split`, and each label or variable of the consortium's.
        names: its columns with people's names, which are taken out of the texts.

    """

    path: Path
    keys: Mapping[str, str]
    columns: Mapping[str, str]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """Which images are taken; the first rule that fits decides, an image that none fits is left out.

    Attributes:
        modality: any of these; empty for all.
        view: any of these, as in View Position.
        body_part: any of these, as in Body Part Examined.
        stack: what slices are chosen from: the frames of a `file`, or all images of a `series`.
        take: of a stack, the `middle` slice, `all`, `count` slices `spread` evenly, or their maximum intensity
            projection (`mip`).
        count: how many slices `spread` takes.

    """

    modality: tuple[str, ...] = ()
    view: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    stack: str = "file"
    take: str = "middle"
    count: int = 3


@dataclass(frozen=True)
class Image:
    """How images are kept; the consortium's data.image says which size and how many channels.

    Attributes:
        bits: 8 or 16.
        spacing: millimetres of a kept pixel; the image is cut or padded around its centre. null keeps all of it.

    """

    bits: int = 8
    spacing: float | None = None


@dataclass(frozen=True)
class Text:
    """What is kept of reports.

    Attributes:
        sections: names in `headings` of what is kept; empty for all of a report.
        headings: the words that begin a section.
        remove: words that tell the label; `intubat*` stands for all that begin so.
        deidentify: whether dates, numbers, addresses and names are taken out.

    """

    sections: tuple[str, ...] = ()
    headings: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "history": ("history", "clinical history", "indication", "clinical information", "anamnese"),
            "technique": ("technique", "procedure", "comparison", "technik"),
            "findings": ("findings", "befund"),
            "impression": ("impression", "conclusion", "assessment", "beurteilung"),
        }
    )
    remove: tuple[str, ...] = ()
    deidentify: bool = True


@dataclass(frozen=True)
class Limits:
    """What one file may take.

    Attributes:
        seconds: of time.
        megabytes: of memory beside the program's own.

    """

    seconds: float = 60.0
    megabytes: int = 2048


@dataclass(frozen=True)
class Settings:
    """All of the file.

    Attributes:
        site: the hospital's name in the consortium.
        data: option of the configuration group `data`: what the consortium calls these data.
        source: where the images lie; `_target_` names a class of `fedhealth.ingest.source`.
        conf: folder of the consortium's configuration files, where they are not installed with fedhealth.
        tables: of reports, labels and laboratory values.
        select: rules, tried in order.
        image: how images are kept.
        text: what is kept of reports.
        limits: what one file may take.

    """

    site: str
    data: str
    source: Any
    conf: Path | None = None
    tables: tuple[Table, ...] = ()
    select: tuple[Rule, ...] = (Rule(),)
    image: Image = field(default_factory=Image)
    text: Text = field(default_factory=Text)
    limits: Limits = field(default_factory=Limits)


def load_settings(path: Path) -> Settings:
    """Read and check the file.

    Raises:
        ConfigError: it is missing, unreadable, or holds a fault; all faults are named.

    """
    from fedhealth.utils.yaml_model import load  # workers need these settings, and not what reads them

    return load(path, Settings, _faults, "Correct the file; docs/ingest.md describes it.")


def _faults(settings: Settings) -> list[str]:
    faults = [] if SITE_ID.fullmatch(settings.site) else [f"site: {settings.site!r} is no site name."]
    if not (isinstance(settings.source, dict) and isinstance(settings.source.get("_target_"), str)):
        faults.append("source: needs a _target_, such as fedhealth.ingest.source.Folder.")
    if settings.image.bits not in (8, 16):
        faults.append("image.bits: must be 8 or 16.")
    if settings.image.spacing is not None and not 0 < settings.image.spacing < 1000:
        faults.append("image.spacing: must be millimetres above 0, or null.")
    if not (settings.limits.seconds > 0 and settings.limits.megabytes > 0):
        faults.append("limits: must be positive.")
    faults += [f"text.sections: {name!r} is not in text.headings." for name in _unknown_sections(settings.text)]
    for place, rule in enumerate(settings.select):
        faults += [f"select[{place}].{fault}" for fault in _rule_faults(rule)]
    for place, table in enumerate(settings.tables):
        faults += [f"tables[{place}].{fault}" for fault in _table_faults(table)]
    return faults


def _unknown_sections(text: Text) -> list[str]:
    return [name for name in text.sections if name not in text.headings]


def _rule_faults(rule: Rule) -> list[str]:
    faults = [] if rule.take in TAKES else [f"take: must be one of {', '.join(TAKES)}."]
    faults += [] if rule.stack in STACKS else [f"stack: must be one of {', '.join(STACKS)}."]
    return faults + ([] if rule.count > 0 else ["count: must be positive."])


def _table_faults(table: Table) -> list[str]:
    faults = [f"keys.{key}: must be one of {', '.join(KEYS)}." for key in table.keys if key not in KEYS]
    return faults + ([] if table.keys else ["keys: names no column to join by."])
