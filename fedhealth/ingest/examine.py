"""Examine one file, or the selected slices of one series, in a worker: read, select, decode and resize."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from fedhealth.config.windows import ValueWindow
from fedhealth.data.image.dicom import is_dicom, open_dicom, read_frame, read_stored_frame
from fedhealth.data.image.display import render_projection
from fedhealth.data.image.errors import ImageError
from fedhealth.data.image.geometry import fit_to_square
from fedhealth.data.image.grayscale import IntegerImage
from fedhealth.data.image.load import guard_parsers
from fedhealth.ingest.header import TAGS, HeaderFields, extract_fields
from fedhealth.ingest.image_content import NAMES, list_frames, name_other_file
from fedhealth.ingest.pixel_layout import hash_pixels
from fedhealth.ingest.records import OPTED_OUT
from fedhealth.ingest.selection_rules import find_rule, select_slices
from fedhealth.ingest.settings import ImageSettings, SelectionRule
from fedhealth.ingest.source import IngestSource, SourceFile

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
DAMAGED, UNREADABLE = "the file is damaged", "the file cannot be read"


@dataclass(frozen=True)
class ExamineOptions:
    """What workers need to examine a file; sent once to each worker.

    Attributes:
        source: of the files.
        select: the hospital's selection rules.
        image: how images are stored.
        size: side of a stored image in pixels.
        channels: 1 or 3.
        windows: the consortium's, for images with physical values.
        excluded: codes of the patients who are left out.

    """

    source: IngestSource
    select: tuple[SelectionRule, ...]
    image: ImageSettings
    size: int
    channels: int
    windows: tuple[ValueWindow, ...] = ()
    excluded: frozenset[str] = frozenset()


class DicomSeries(NamedTuple):
    """The selected slices of one series, in order, and the rule that selected them."""

    name: str
    rule: int
    slices: tuple[SourceFile, ...]


class DecodedImage(NamedTuple):
    """One decoded and resized image.

    Attributes:
        pixels: [channels, size, size] as bytes; empty after they are written to a file.
        digest: of the pixels.
        file: name of the file with the pixels; empty until they are written.
        slot: index of the image in that file.

    """

    pixels: bytes
    digest: str
    file: str = ""
    slot: int = 0


@dataclass(frozen=True)
class ExamineResult:
    """The result for one file or series.

    Attributes:
        fields: the header fields that are kept; None if the header could not be read.
        rule: index of the rule that selected it.
        pictures: its images.
        left_out: why a valid file is not part of the dataset; empty otherwise.
        rejected: why the file cannot be used; empty otherwise.
        is_final: False if the cause may be outside the file; the next ingest then tries the file again.

    """

    fields: HeaderFields | None = None
    rule: int | None = None
    pictures: tuple[DecodedImage, ...] = ()
    left_out: str = ""
    rejected: str = ""
    is_final: bool = True


class _OtherFileError(ImageError):
    """A file is clearly something else than an image."""


class _OpenError(ImageError):
    """The source cannot open a file: permissions, or a share that is not mounted."""


def examine_unit(options: ExamineOptions, unit: SourceFile | DicomSeries) -> ExamineResult:
    """Read, select, decode and resize; turn every fault of a file into a reason."""
    fields: HeaderFields | None = None
    try:
        with guard_parsers():
            if isinstance(unit, DicomSeries):
                return ExamineResult(rule=unit.rule, pictures=tuple(_read_series(options, unit)))
            dataset = _open_dataset(options, unit)
            fields = extract_fields(dataset)
            if fields.patient in options.excluded:
                return ExamineResult(left_out=OPTED_OUT, is_final=False)
            return _examine_file(options, dataset, fields)
    except _OtherFileError as fault:
        return ExamineResult(left_out=fault.reason)
    except ImageError as fault:
        return ExamineResult(fields, rejected=fault.reason, is_final=not isinstance(fault, _OpenError))
    except MemoryError:
        raise
    except Exception as fault:  # on damaged files the parsers raise almost any exception and quote the content
        if isinstance(fault, OSError) and fault.errno:  # an operating system error, such as an unmounted share
            return ExamineResult(fields, rejected=fault.strerror or UNREADABLE, is_final=False)
        return ExamineResult(fields, rejected=DAMAGED)


def _open_dataset(options: ExamineOptions, item: SourceFile) -> Dataset:
    try:
        opened = options.source.open(item)
    except ImageError as fault:
        raise _OpenError(fault.reason, fault.advice) from None
    with opened as file:
        head = file.read(132)
        if other := name_other_file(head):
            raise _OtherFileError(f"no image but {other}")
        if not is_dicom(head):
            raise ImageError("not a DICOM file", "Remove it from the folder, or add it to source.exclude.")
        file.seek(0)
        return open_dicom(file, TAGS)


def _examine_file(options: ExamineOptions, dataset: Dataset, fields: HeaderFields) -> ExamineResult:
    if not any(keyword in dataset for keyword in _PIXELS) and fields.kind and "Image Storage" not in fields.kind:
        return ExamineResult(fields, left_out=f"no image but {fields.kind.removesuffix(' Storage')}")
    number = find_rule(fields, options.select)
    if number is None:
        other = NAMES.get(fields.content)
        return ExamineResult(fields, left_out=f"no image but {other}" if other else "no rule of select matches")
    rule = options.select[number]
    if rule.stack == "series" and fields.frames == 1:
        return ExamineResult(fields, number)  # decided later, with the rest of its series
    which = _select_frames(list_frames(dataset, fields.frames), rule)
    bits, windows = options.image.bits, options.windows
    frames: Iterable[IntegerImage] = (read_frame(dataset, index, bits, windows) for index in which)
    if rule.take == "mip":
        slices = ((read_stored_frame(dataset, index), dataset, index) for index in which)
        frames = [render_projection(slices, bits, windows)]
    return ExamineResult(fields, number, tuple(_fit_image(options, frame, fields) for frame in frames))


def _read_series(options: ExamineOptions, series: DicomSeries) -> Iterator[DecodedImage]:
    """Yield the images of a series."""
    if options.select[series.rule].take != "mip":
        for item in series.slices:
            dataset = _open_dataset(options, item)
            frame = read_frame(dataset, 0, options.image.bits, options.windows)
            yield _fit_image(options, frame, extract_fields(dataset))
        return
    last: list[HeaderFields] = []

    def slices() -> Iterator[tuple[npt.NDArray[Any], Dataset, int]]:
        for item in series.slices:
            dataset = _open_dataset(options, item)
            last[:] = [extract_fields(dataset)]
            yield read_stored_frame(dataset, 0), dataset, 0

    whole = render_projection(slices(), options.image.bits, options.windows)
    yield _fit_image(options, whole, last[0])


def _select_frames(frames: Sequence[int], rule: SelectionRule) -> list[int]:
    try:
        return [frames[place] for place in select_slices(len(frames), rule)]
    except ValueError as fault:
        raise ImageError(str(fault), "Use take: middle or spread.") from None


def _fit_image(options: ExamineOptions, picture: IntegerImage, fields: HeaderFields) -> DecodedImage:
    pixels = (
        fit_to_square(picture, options.size, options.channels, _compute_scale(options, fields))
        .astype(_get_dtype(options), copy=False)
        .tobytes()
    )
    return DecodedImage(pixels, hash_pixels(pixels))


def _get_dtype(options: ExamineOptions) -> np.dtype[Any]:
    return np.dtype("u1" if options.image.bits == 8 else "<u2")


def _compute_scale(options: ExamineOptions, fields: HeaderFields) -> tuple[float, float] | None:
    if options.image.spacing is None:
        return None
    if fields.spacing is None:
        raise ImageError("no pixel spacing in the header", "Remove image.spacing, or exclude the series.")
    return fields.spacing[0] / options.image.spacing, fields.spacing[1] / options.image.spacing
