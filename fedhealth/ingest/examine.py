"""What a worker does with one file, or with the slices of one series: everything between bytes and cached pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from fedhealth.data.image.dicom import is_dicom, open_dicom, read_frame, read_stored
from fedhealth.data.image.display import projection
from fedhealth.data.image.error import ImageError
from fedhealth.data.image.geometry import fitted
from fedhealth.data.image.grayscale import Whole
from fedhealth.data.image.load import guarded
from fedhealth.ingest.header import TAGS, Facts, facts_of
from fedhealth.ingest.pixels import digest_of
from fedhealth.ingest.selection_rules import chosen, rule_for
from fedhealth.ingest.settings import Image, Rule
from fedhealth.ingest.source import Item, Source

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_ARCHIVES = (b"PK\3\4", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")
DAMAGED, UNREADABLE = "the file is damaged", "the file cannot be read"


@dataclass(frozen=True)
class Work:
    """What workers need to know; sent to each once.

    Attributes:
        source: of the files.
        select: the hospital's rules.
        image: how images are kept.
        size: side of a kept image in pixels.
        channels: 1 or 3.

    """

    source: Source
    select: tuple[Rule, ...]
    image: Image
    size: int
    channels: int


class Series(NamedTuple):
    """The chosen slices of one series, in order, and the rule that chose them."""

    name: str
    rule: int
    slices: tuple[Item, ...]


class Picture(NamedTuple):
    """One kept image.

    Attributes:
        pixels: [channels, size, size] as bytes; empty once they are in a file.
        digest: of the pixels.
        file: that holds them, and the slot in it.

    """

    pixels: bytes
    digest: str
    file: str = ""
    slot: int = 0


@dataclass(frozen=True)
class Found:
    """What became of a file or series.

    Attributes:
        facts: what is kept of its header; null where it could not be read.
        rule: the one that chose it.
        pictures: kept images.
        left_out: why it is no part of the cohort though nothing is wrong with it.
        rejected: why it was set aside.
        lasting: false where the cause may lie outside the file, which is then tried again the next time.

    """

    facts: Facts | None = None
    rule: int | None = None
    pictures: tuple[Picture, ...] = ()
    left_out: str = ""
    rejected: str = ""
    lasting: bool = True


class _UnopenedError(ImageError):
    """The source does not give a file away: permissions, or a share that is not there."""


def examine(work: Work, unit: Item | Series) -> Found:
    """Read, select, decode and fit; every fault of a file becomes a reason."""
    facts: Facts | None = None
    try:
        with guarded():
            if isinstance(unit, Series):
                return Found(rule=unit.rule, pictures=tuple(_stack(work, unit)))
            dataset = _opened(work, unit)
            facts = facts_of(dataset)
            return _file(work, dataset, facts)
    except ImageError as fault:
        return Found(facts, rejected=fault.reason, lasting=not isinstance(fault, _UnopenedError))
    except MemoryError:
        raise
    except Exception as fault:  # parsers of damaged files raise almost anything, and quote what they read
        if isinstance(fault, OSError) and fault.errno:  # the system's, such as a share that went away
            return Found(facts, rejected=fault.strerror or UNREADABLE, lasting=False)
        return Found(facts, rejected=DAMAGED)


def _opened(work: Work, item: Item) -> Dataset:
    try:
        opened = work.source.open(item)
    except ImageError as fault:
        raise _UnopenedError(fault.reason, fault.advice) from None
    with opened as file:
        head = file.read(132)
        if head.startswith(_ARCHIVES):
            raise ImageError("an archive, not a DICOM file", "Unpack it, and take it out of the folder.")
        if not is_dicom(head):
            raise ImageError("not a DICOM file", "Take it out of the folder, or name it in source.exclude.")
        file.seek(0)
        return open_dicom(file, TAGS)


def _file(work: Work, dataset: Dataset, facts: Facts) -> Found:
    if not any(keyword in dataset for keyword in _PIXELS) and facts.kind and "Image Storage" not in facts.kind:
        return Found(facts, left_out=f"no image but {facts.kind.removesuffix(' Storage')}")
    number = rule_for(facts, work.select)
    if number is None:
        return Found(facts, left_out="no rule of select fits")
    rule = work.select[number]
    if rule.stack == "series" and facts.frames == 1:
        return Found(facts, number)  # its series decides
    which = _chosen(facts.frames, rule)
    if rule.take == "mip":
        pictures = [projection(((read_stored(dataset, index), dataset, index) for index in which), work.image.bits)]
        return Found(facts, number, tuple(_kept(work, picture, facts) for picture in pictures))
    return Found(
        facts, number, tuple(_kept(work, read_frame(dataset, index, work.image.bits), facts) for index in which)
    )


def _stack(work: Work, series: Series) -> Iterator[Picture]:
    """Yield the kept images of a series."""
    if work.select[series.rule].take != "mip":
        for item in series.slices:
            dataset = _opened(work, item)
            yield _kept(work, read_frame(dataset, 0, work.image.bits), facts_of(dataset))
        return
    last: list[Facts] = []

    def slices() -> Iterator[tuple[npt.NDArray[Any], Dataset, int]]:
        for item in series.slices:
            dataset = _opened(work, item)
            last[:] = [facts_of(dataset)]
            yield read_stored(dataset, 0), dataset, 0

    whole = projection(slices(), work.image.bits)
    yield _kept(work, whole, last[0])


def _chosen(count: int, rule: Rule) -> list[int]:
    try:
        return chosen(count, rule)
    except ValueError as fault:
        raise ImageError(str(fault), "Take the middle, or spread.") from None


def _kept(work: Work, picture: Whole, facts: Facts) -> Picture:
    pixels = fitted(picture, work.size, work.channels, _scale(work, facts)).astype(_kind(work), copy=False).tobytes()
    return Picture(pixels, digest_of(pixels))


def _kind(work: Work) -> np.dtype[Any]:
    return np.dtype("u1" if work.image.bits == 8 else "<u2")


def _scale(work: Work, facts: Facts) -> tuple[float, float] | None:
    if work.image.spacing is None:
        return None
    if facts.spacing is None:
        raise ImageError("no pixel spacing in the header", "Leave out image.spacing, or the series.")
    return facts.spacing[0] / work.image.spacing, facts.spacing[1] / work.image.spacing
