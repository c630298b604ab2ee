"""Tell what a file's pixels show: an image of a patient, or something that is stored like one.

A segmentation exists for ill patients only, so a model that sees one learns the label; the scout of a CT is no slice of
it. Sources: DICOM PS3.4 B.5 (SOP classes), PS3.3 C.7.6.1.1.2 and C.8.2.1.1.1 (Image Type).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydicom.dataset import Dataset

IMAGE = "image"
_CLASSES = (
    ("Segmentation", "segmentation"),
    ("Dose", "dose"),
    ("Parametric Map", "map"),
    ("Secondary Capture", "capture"),
    ("Encapsulated", "document"),
)
_MODALITIES = {"SEG": "segmentation", "RTDOSE": "dose", "SC": "capture", "DOC": "document"}
_TYPES = {
    "LOCALIZER": "localizer",
    "SCOUT": "localizer",
    "TOPOGRAM": "localizer",
    "SCREEN SAVE": "capture",
    "SCREENSHOT": "capture",
    "DOSE_INFO": "capture",
}
CONTENTS = (IMAGE, *dict.fromkeys([*(name for _, name in _CLASSES), *_TYPES.values()]))
"""What `select` may ask for; by default only images."""

NAMES = {
    "segmentation": "a segmentation",
    "dose": "a dose distribution",
    "map": "a parametric map",
    "capture": "a capture of a screen, film or document",
    "document": "a document",
    "localizer": "a localizer",
}

_SIGNATURES = (
    (b"%PDF", "a PDF"),
    (b"MZ", "a program"),
    (b"\x7fELF", "a program"),
    (b"PK\3\4", "an archive"),
    (b"\x1f\x8b", "an archive"),
    (b"7z\xbc\xaf", "an archive"),
    (b"Rar!", "an archive"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
    (b"SQLite format 3", "a database"),
)


def classify_content(kind: str, modality: str, image_type: str) -> str:
    """Return what the pixels show, one of `CONTENTS`.

    Args:
        kind: name of the SOP class.
        modality: the DICOM term.
        image_type: values of Image Type, separated by backslashes.

    """
    for word, content in _CLASSES:
        if word in kind:
            return content
    if modality in _MODALITIES:
        return _MODALITIES[modality]
    values = [value.strip(" \0").upper() for value in image_type.split("\\")]
    return next((_TYPES[value] for value in values if value in _TYPES), IMAGE)


def name_other_file(head: bytes) -> str:
    """Return what a file is that is clearly not DICOM, by its first bytes; empty if it may be a broken image."""
    return next((name for signature, name in _SIGNATURES if head.startswith(signature)), "")


def find_main_orientation(orientations: Sequence[str]) -> str:
    """Return the orientation that most slices have."""
    return max(Counter(orientations).items(), key=lambda each: (each[1], each[0]))[0]


def list_frames(dataset: Dataset, count: int) -> Sequence[int]:
    """Return the frames of a file that have the orientation of most of them."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != count:
        return range(count)  # a header may claim billions
    orientations = [_read_frame_orientation(group) for group in groups]
    main = find_main_orientation(orientations)
    return [number for number, orientation in enumerate(orientations) if orientation == main]


def format_orientation(cosines: Sequence[float] | None) -> str:
    """Return direction cosines rounded so that slices of one stack have equal texts; empty for none."""
    return "" if cosines is None else ",".join(f"{value:.1f}".replace("-0.0", "0.0") for value in cosines)


def _read_frame_orientation(group: Dataset) -> str:
    plane = group.get("PlaneOrientationSequence")
    cosines = plane[0].get("ImageOrientationPatient") if plane else None
    return format_orientation([float(value) for value in cosines] if cosines else None)
