"""What is kept of a DICOM header: an allow-list. Identifiers become codes here, before anything is written down.

A code is a hash: it joins tables with images and keeps a patient in one split, and whoever knows an identifier can
compute its code. It is there so that no name or number is lying about, not to make data anonymous.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from fedhealth.data.image.decoders import syntax_of
from fedhealth.data.image.dicom import frames

OVERLAY = Tag(0x60003000)
_KEYWORDS = [
    *("PatientID", "StudyInstanceUID", "AccessionNumber", "SeriesInstanceUID", "SOPInstanceUID"),
    *("Modality", "BodyPartExamined", "ViewPosition", "InstanceNumber"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing"),
    *("BurnedInAnnotation", "ConversionType"),
]
TAGS = [*map(Tag, _KEYWORDS), OVERLAY]
"""Elements that are looked at beside those that describe pixels; none of them is kept as it is, but codes and words."""

_TAG = {keyword: Tag(keyword) for keyword in _KEYWORDS}
_WORD = re.compile(r"[A-Z0-9_ ]{1,16}", re.ASCII)


@dataclass(frozen=True)
class Facts:
    """What is kept of one image's header.

    Attributes:
        patient: code of the patient's identifier; likewise study, accession, series and instance. Empty = absent.
        modality: DICOM's word, such as CT; likewise body_part and view. Empty = absent, or not a plain word.
        kind: name of the SOP class.
        syntax: name of the transfer syntax.
        rows: of a frame.
        columns: of a frame.
        frames: how many.
        place: along the series' axis, for the order of slices; null where the header gives none.
        spacing: millimetres of a pixel, down and across; null where the header gives none.
        burned_in: YES, NO or empty, as the header says.
        overlay: whether there is an overlay plane.
        secondary: whether it is a capture of a screen, film or document.

    """

    patient: str
    study: str
    accession: str
    series: str
    instance: str
    modality: str
    body_part: str
    view: str
    kind: str
    syntax: str
    rows: int
    columns: int
    frames: int
    place: float | None
    spacing: tuple[float, float] | None
    burned_in: str
    overlay: bool
    secondary: bool


def code(kind: str, value: object) -> str:
    """Return the code of an identifier; empty for an empty one. Blanks around it do not count."""
    text = str(value or "").strip(" \0")
    return hashlib.sha256(f"fedhealth|{kind}|{text}".encode("utf-8", "surrogatepass")).hexdigest()[:20] if text else ""


def facts_of(dataset: Dataset) -> Facts:
    """Return what is kept of a header."""
    kind = str(getattr(dataset.get("SOPClassUID"), "name", ""))
    return Facts(
        patient=code("patient", _text(dataset, "PatientID")),
        study=code("study", _text(dataset, "StudyInstanceUID")),
        accession=code("accession", _text(dataset, "AccessionNumber")),
        series=code("series", _text(dataset, "SeriesInstanceUID")),
        instance=code("instance", _text(dataset, "SOPInstanceUID")),
        modality=_word(dataset, "Modality"),
        body_part=_word(dataset, "BodyPartExamined"),
        view=_word(dataset, "ViewPosition"),
        kind=kind if kind[:1].isalpha() else "",  # an unknown UID is not kept
        syntax=syntax_of(dataset).name,
        rows=int(dataset.get("Rows") or 0),
        columns=int(dataset.get("Columns") or 0),
        frames=frames(dataset),
        place=_place(dataset),
        spacing=_spacing(dataset),
        burned_in=_word(dataset, "BurnedInAnnotation"),
        overlay=OVERLAY in dataset,
        secondary="Secondary Capture" in kind or bool(_text(dataset, "ConversionType")),
    )


def _text(dataset: Dataset, keyword: str) -> str:
    """Return an element as text, its values separated by backslashes; empty where it is absent.

    ASCII is taken as it stands in the file: pydicom's own way round takes ten times as long.
    """
    element = dataset.get_item(_TAG[keyword])
    value = element.value if element is not None else None
    if isinstance(value, bytes):
        value = value.decode("ascii") if value.isascii() else dataset[_TAG[keyword]].value
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def _word(dataset: Dataset, keyword: str) -> str:
    text = _text(dataset, keyword).strip(" \0").upper()
    return text if _WORD.fullmatch(text) else ""


def _numbers(dataset: Dataset, keyword: str, count: int) -> list[float] | None:
    text = _text(dataset, keyword)
    if not text:
        return None
    try:
        found = [float(each.strip(" \0")) for each in text.split("\\")]
    except ValueError:
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def _place(dataset: Dataset) -> float | None:
    """Return where a slice lies along the normal of its series, else its number."""
    position = _numbers(dataset, "ImagePositionPatient", 3)
    axes = _numbers(dataset, "ImageOrientationPatient", 6)
    if position and axes:
        return float(np.dot(np.cross(axes[:3], axes[3:]), position))
    number = _numbers(dataset, "InstanceNumber", 1)
    return number[0] if number else None


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    groups = [dataset]
    for group in dataset.get("SharedFunctionalGroupsSequence") or []:
        groups += group.get("PixelMeasuresSequence") or []
    for group in groups:
        for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
            found = _numbers(group, keyword, 2)
            if found and min(found) > 0:
                return found[0], found[1]
    return None
