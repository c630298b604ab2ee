"""Write one image as a DICOM file with reproducible bytes: fixed dates, derived UIDs, no clock."""

import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from fedhealth.data.synthetic.radiograph import Scanner
from fedhealth.data.synthetic.types import StoredPixels

_SYNTAX = {"implicit": ImplicitVRLittleEndian, "explicit": ExplicitVRLittleEndian, "rle": RLELossless}
_SPACE = uuid.UUID("6e8c1f52-6f0d-4f7e-9a55-0d6a1c1f7b21")  # a random constant, so that our UIDs differ from others'


@dataclass(frozen=True)
class SyntheticHeader:
    """The fictitious patient and study of one image."""

    hospital: str
    patient_id: str
    study_id: str
    view: int
    age: int
    sex: str


def write_dicom(path: Path, header: SyntheticHeader, scanner: Scanner, stored: StoredPixels) -> None:
    """Write `stored` [rows, columns] to `path`."""
    dataset = Dataset()
    dataset.file_meta = _file_meta(header, scanner)
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    _set_identity(dataset, header, scanner)
    _set_pixel_description(dataset, scanner)
    data = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    if scanner.syntax == "rle":
        dataset.PixelData = encapsulate([_run_length_encode(stored)], has_bot=False)
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if scanner.bits == 8 or scanner.syntax == "rle" else "OW"
    dataset.save_as(path, enforce_file_format=True)


def _derive_uid(*parts: str) -> UID:
    """Derive a UID from a name, as a UUID-derived UID (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(_SPACE, '/'.join(parts)).int}")


def _file_meta(header: SyntheticHeader, scanner: Scanner) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _derive_uid(header.hospital, header.study_id, "image", str(header.view))
    meta.TransferSyntaxUID = _SYNTAX[scanner.syntax]
    meta.ImplementationClassUID = _derive_uid("implementation")
    meta.ImplementationVersionName = "FEDHEALTH"
    return meta


def _set_identity(dataset: Dataset, header: SyntheticHeader, scanner: Scanner) -> None:
    dataset.StudyDate = "20200101"
    dataset.StudyTime = "120000"
    dataset.AccessionNumber = ""
    dataset.Modality = "DX"
    dataset.Manufacturer = scanner.maker
    dataset.InstitutionName = f"{header.hospital} (fictitious)"
    dataset.PatientName = f"Synthetic^{header.patient_id}"
    dataset.PatientID = header.patient_id
    dataset.PatientBirthDate = ""
    dataset.PatientSex = header.sex
    dataset.PatientAge = f"{header.age:03d}Y"
    dataset.StudyInstanceUID = _derive_uid(header.hospital, header.study_id)
    dataset.SeriesInstanceUID = _derive_uid(header.hospital, header.study_id, "series")
    dataset.StudyID = header.study_id
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = header.view


def _set_pixel_description(dataset: Dataset, scanner: Scanner) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if scanner.inverted else "MONOCHROME2"
    dataset.Rows, dataset.Columns = scanner.rows, scanner.columns
    dataset.BitsAllocated = 8 if scanner.bits == 8 else 16
    dataset.BitsStored = scanner.bits
    dataset.HighBit = scanner.bits - 1
    dataset.PixelRepresentation = 0
    if scanner.window:
        top = 2**scanner.bits - 1
        low, high = 0.04 * top, (0.04 + scanner.gain) * top
        if scanner.inverted:
            low, high = top - high, top - low
        dataset.WindowCenter, dataset.WindowWidth = round((low + high) / 2), round(high - low)


def _run_length_encode(stored: StoredPixels) -> bytes:
    """Encode one frame as RLE (PS3.5 annex G): segment offsets, then each byte plane, most significant first."""
    planes = stored.astype(stored.dtype.newbyteorder(">")).view(np.uint8).reshape(*stored.shape, -1)
    segments = [_pack_rows(np.ascontiguousarray(planes[..., plane])) for plane in range(planes.shape[-1])]
    offsets, position = [], 64
    for segment in segments:
        offsets.append(position)
        position += len(segment)
    header = np.zeros(16, dtype="<u4")
    header[0] = len(segments)
    header[1 : 1 + len(offsets)] = offsets
    return header.tobytes() + b"".join(segments)


def _pack_rows(plane: npt.NDArray[np.uint8]) -> bytes:
    """Encode as PackBits: runs of 3 to 128 equal bytes as (257 - n, byte), other bytes as (n - 1, bytes)."""
    flat, columns = plane.ravel(), plane.shape[1]
    new = np.ones(flat.size, dtype=bool)
    new[1:] = flat[1:] != flat[:-1]
    new[::columns] = True  # the standard ends every run at the end of a row
    starts = np.flatnonzero(new)
    lengths = np.diff(starts, append=flat.size)
    runs = dict(zip(starts[lengths >= 3].tolist(), lengths[lengths >= 3].tolist(), strict=True))
    data, out = flat.tobytes(), bytearray()
    position = 0
    for start in [*sorted({*runs, *range(0, flat.size, columns)}), flat.size]:
        _append_literal(out, data[position:start])
        position = start
        for done in range(0, runs.get(start, 0), 128):
            run = min(128, runs[start] - done)
            out += bytes([257 - run if run > 1 else 0, data[start]])
            position += run
    return bytes(out + b"\0" * (len(out) % 2))


def _append_literal(out: bytearray, data: bytes) -> None:
    for start in range(0, len(data), 128):
        piece = data[start : start + 128]
        out.append(len(piece) - 1)
        out += piece
