"""The hospital's ingest settings: one YAML file, written by its own staff."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedhealth.data.identifiers import RULES
from fedhealth.ingest.image_content import CONTENTS, IMAGE
from fedhealth.types import SITE_ID, UserPath

KEYS = ("file", "instance", "accession", "study", "patient")
"""The keys by which tables and images can be joined, finest first."""

UNDECIDED = "???"
"""Stands where a person has to decide; settings with it are refused."""

TAKES = ("middle", "all", "spread", "mip")
STACKS = ("file", "series")


@dataclass(frozen=True)
class IngestTable:
    """A table of reports, labels or laboratory values: a file, or what a record system answers.

    Attributes:
        path: the file, CSV, Parquet or Excel.
        source: instead of a file; `_target_` names a class of `fedhealth.ingest.sources`.
        keys: its column for each of `KEYS` that it has.
        columns: its column for `text`, `split`, and each of the consortium's labels or variables.
        names: its columns with people's names, which are removed from the texts.
        decimal: how it writes numbers: with `.` or `,`.
        units: of its numbers, by the consortium's variable, where they are not the consortium's.
        words: its own words for labels, levels and numbers, by the consortium's label or variable.

    """

    path: UserPath | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    source: Any = None
    names: tuple[str, ...] = ()
    decimal: str = "."
    units: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class SelectionRule:
    """Which images are selected; the first matching rule applies, and an image without a matching rule is left out.

    Attributes:
        modality: any of these; empty = all.
        view: any of these, as in View Position.
        body_part: any of these, as in Body Part Examined.
        content: what the pixels show, of `fedhealth.ingest.image_content.CONTENTS`.
        stack: the slices to select from: the frames of a `file`, or all images of a `series`.
        take: of a stack, the `middle` slice, `all`, `count` slices `spread` evenly, or their maximum intensity
            projection (`mip`).
        count: how many slices `spread` takes.

    """

    modality: tuple[str, ...] = ()
    view: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    content: tuple[str, ...] = (IMAGE,)
    stack: str = "file"
    take: str = "middle"
    count: int = 3


@dataclass(frozen=True)
class ImageSettings:
    """How images are stored; the consortium's data.image sets size and channels.

    Attributes:
        bits: 8 or 16.
        spacing: millimetres per stored pixel; the image is then cropped or padded around its centre. null fits the
            whole image.

    """

    bits: int = 8
    spacing: float | None = None


@dataclass(frozen=True)
class TextSettings:
    """How reports are cleaned.

    Attributes:
        sections: the sections to keep, by their names in `headings`; empty = the whole report.
        headings: the words that begin a section.
        remove: words that reveal the label; `intubat*` matches all words with this beginning.
        deidentify: whether dates, numbers, addresses and names are removed.
        deidentifier: name of an entry point of the group `fedhealth.deidentifiers`: the hospital's own function, which
            runs first; empty = none.

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
    deidentifier: str = ""


@dataclass(frozen=True)
class IdentifierSettings:
    """How patients and accession numbers are compared.

    Attributes:
        rules: what does not matter, of `fedhealth.data.identifiers.RULES`.
        min_matched: share of a table's identifiers, or of those of the images if these are fewer, that must match;
            with fewer the ingest stops.

    """

    rules: tuple[str, ...] = ()
    min_matched: float = 0.5


@dataclass(frozen=True)
class IngestLimits:
    """Limits of time and memory for one file.

    Attributes:
        seconds: of time.
        megabytes: of memory in addition to the program's own.

    """

    seconds: float = 60.0
    megabytes: int = 2048


@dataclass(frozen=True)
class IngestSettings:
    """The content of the settings file.

    Attributes:
        site: the hospital's name in the consortium.
        data: option of the configuration group `data`: the consortium's name for these data.
        source: where the images are; `_target_` names a class of `fedhealth.ingest.source`.
        conf: folder of the consortium's configuration files, if they are not installed with fedhealth.
        tables: of reports, labels and laboratory values.
        exclude: a table whose first column has the Patient IDs of people who are left out.
        identifiers: how patients and accession numbers are compared.
        select: selection rules, tried in order.
        image: how images are stored.
        text: how reports are cleaned.
        limits: of time and memory for one file.

    """

    site: str
    data: str
    source: Any
    conf: UserPath | None = None
    tables: tuple[IngestTable, ...] = ()
    exclude: UserPath | None = None
    identifiers: IdentifierSettings = field(default_factory=IdentifierSettings)
    select: tuple[SelectionRule, ...] = (SelectionRule(),)
    image: ImageSettings = field(default_factory=ImageSettings)
    text: TextSettings = field(default_factory=TextSettings)
    limits: IngestLimits = field(default_factory=IngestLimits)


def load_ingest_settings(path: Path) -> IngestSettings:
    """Read and check the settings file.

    Raises:
        ConfigError: it is missing, unreadable or invalid; all faults are listed.

    """
    from fedhealth.utils.yaml_model import load_yaml  # workers import this module but do not load files

    return load_yaml(path, IngestSettings, _find_faults, "Correct the file; docs/ingest.md describes it.")


def _find_undecided(settings: IngestSettings) -> list[str]:
    """Return the places where a proposal left the decision to a person."""
    faults = ["site: replace ??? by the hospital's name."] if settings.site == UNDECIDED else []
    for place, table in enumerate(settings.tables):
        for part in ("keys", "columns", "units", "words"):
            if UNDECIDED in repr(getattr(table, part)):
                faults.append(f"tables[{place}].{part}: replace every ??? (the comments say what is to be decided).")
    if any(UNDECIDED in rule.modality for rule in settings.select):
        faults.append("select: replace ???.")
    return faults


def _find_faults(settings: IngestSettings) -> list[str]:
    if undecided := _find_undecided(settings):
        return undecided
    faults = [] if SITE_ID.fullmatch(settings.site) else [f"site: {settings.site!r} is not a valid site name."]
    if not _names_class(settings.source):
        faults.append("source: needs a _target_, such as fedhealth.ingest.source.Folder.")
    if settings.image.bits not in (8, 16):
        faults.append("image.bits: must be 8 or 16.")
    if settings.image.spacing is not None and not 0 < settings.image.spacing < 1000:
        faults.append("image.spacing: must be millimetres above 0, or null.")
    faults += [
        f"identifiers.rules: must be of {', '.join(RULES)}." for _ in set(settings.identifiers.rules) - set(RULES)
    ]
    if not 0 <= settings.identifiers.min_matched <= 1:
        faults.append("identifiers.min_matched: must be between 0 and 1.")
    if not (settings.limits.seconds > 0 and settings.limits.megabytes > 0):
        faults.append("limits: must be positive.")
    faults += [f"text.sections: {name!r} is not in text.headings." for name in _find_unknown_sections(settings.text)]
    for place, rule in enumerate(settings.select):
        faults += [f"select[{place}].{fault}" for fault in _find_rule_faults(rule)]
    for place, table in enumerate(settings.tables):
        faults += [f"tables[{place}].{fault}" for fault in _find_table_faults(table)]
    return faults


def _find_unknown_sections(text: TextSettings) -> list[str]:
    return [name for name in text.sections if name not in text.headings]


def _find_rule_faults(rule: SelectionRule) -> list[str]:
    faults = [] if rule.take in TAKES else [f"take: must be one of {', '.join(TAKES)}."]
    faults += [] if set(rule.content) <= set(CONTENTS) else [f"content: must be of {', '.join(CONTENTS)}."]
    faults += [] if rule.stack in STACKS else [f"stack: must be one of {', '.join(STACKS)}."]
    return faults + ([] if rule.count > 0 else ["count: must be positive."])


def _find_table_faults(table: IngestTable) -> list[str]:
    faults = [f"keys.{key}: must be one of {', '.join(KEYS)}." for key in table.keys if key not in KEYS]
    faults += [
        f"{name}: there is no such column in columns." for name in {*table.units, *table.words} - set(table.columns)
    ]
    faults += [] if table.decimal in (".", ",") else ["decimal: must be . or a comma."]
    if (table.path is None) == (table.source is None):
        faults.append("path: needs either path or source.")
    if table.source is not None and not _names_class(table.source):
        faults.append("source: needs a _target_, such as fedhealth.ingest.sources.fhir.FhirPatients.")
    if not table.columns and len(table.keys) < 2:
        faults.append("columns: is missing.")
    return faults + ([] if table.keys else ["keys: must name at least one column to join by."])


def _names_class(source: Any) -> bool:
    return isinstance(source, dict) and isinstance(source.get("_target_"), str)
