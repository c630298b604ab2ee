"""Broken files, the same ones for the same seed: DICOM and tables, mutated, and bombs made on purpose."""

import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom.data
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

Random = np.random.Generator
PACKAGED = Path(pydicom.data.__file__).parent / "test_files"
LARGEST_SEED = 40_000  # bytes
VRS = (b"US", b"SQ", b"UN", b"OW", b"FD", b"PN", b"AT", b"IS", b"\0\0", b"UT", b"OB", b"DS", b"CS")


def seeds() -> list[bytes]:
    """Return small whole files of every transfer syntax that pydicom packs."""
    paths = sorted(path for path in PACKAGED.glob("*.dcm") if path.stat().st_size <= LARGEST_SEED)
    return [path.read_bytes() for path in paths]


def truncated(data: bytes, random: Random) -> bytes:
    """Cut the end off."""
    return data[: random.integers(0, len(data))]


def flipped(data: bytes, random: Random) -> bytes:
    """Flip some bits, half the time in the header."""
    changed = bytearray(data)
    end = len(data) if random.random() < 0.5 else min(len(data), 2000)
    for place in random.integers(0, end, random.integers(1, 60)):
        changed[place] ^= 1 << int(random.integers(8))
    return bytes(changed)


def spliced(data: bytes, random: Random) -> bytes:
    """Take a piece out, or put one in a second time."""
    start, end = sorted(random.integers(0, len(data), 2))
    return data[:start] + data[end:] if random.random() < 0.5 else data[:end] + data[start:]


def noisy(data: bytes, random: Random) -> bytes:
    """Overwrite a piece with noise."""
    start = int(random.integers(0, len(data)))
    noise = random.bytes(int(random.integers(1, 200)))
    return data[:start] + noise + data[start + len(noise) :]


def other_vr(data: bytes, random: Random) -> bytes:
    """Give elements another value representation."""
    changed = bytearray(data)
    places = [
        place for place in range(132, min(len(data), 4000)) if data[place : place + 2] in (b"US", b"CS", b"DS", b"IS")
    ]
    for place in random.permutation(places)[:5]:
        changed[place : place + 2] = VRS[random.integers(len(VRS))]
    return bytes(changed)


def other_length(data: bytes, random: Random) -> bytes:
    """Give elements another length."""
    changed = bytearray(data)
    places = [place for place in range(132, min(len(data), 4000)) if data[place : place + 2].isalpha()]
    for place in random.permutation(places)[:3]:
        length = int(random.choice([0, 1, 0xFF, 0xFFFE, 0xFFFF]))
        changed[place + 2 : place + 4] = struct.pack("<H", length)
        if random.random() < 0.3:
            changed[place + 4 : place + 8] = struct.pack("<I", int(random.choice([0xFFFFFFFF, 0x7FFFFFFF, 1 << 30])))
    return bytes(changed[: len(data)])


def saved(pixels: bytes | None, syntax: str = ExplicitVRLittleEndian, **elements: object) -> bytes:
    """Return a small CT file with elements of one's choice."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientID = CTImageStorage, "1.2.3", "7"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.PixelRepresentation = 8, 8, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    if pixels is not None:
        dataset.add_new("PixelData", "OW", pixels)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def nested(depth: int) -> bytes:
    """Return a file with a sequence in a sequence in a sequence."""
    head = saved(None)
    opening = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return head + opening * depth


def huge_jpeg_2000() -> bytes:
    """Return a file whose header says 8 x 8, and whose JPEG 2000 stream says 60000 x 60000."""
    stream = BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(stream, "JPEG2000", no_jp2=True)
    data = bytearray(stream.getvalue())
    data[8:16] = struct.pack(">II", 60_000, 60_000)
    return saved(encapsulate([bytes(data)]), JPEG2000Lossless, BitsAllocated=8, BitsStored=8, HighBit=7)


def inflating() -> bytes:
    """Return a deflated file that is a thousand times as large inside."""
    whole = saved(None, DeflatedExplicitVRLittleEndian)
    start = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 3 << 30)
    return whole[:start] + packer.compress(body + bytes(1 << 22) * 300) + packer.flush()


def bombs() -> list[bytes]:
    """Return files that ask for more than they should get."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of values that are not as they should be
        return _bombs()


def _bombs() -> list[bytes]:
    pixels = bytes(128)
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [0, 0, 16], [1]
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    return [
        saved(pixels, Rows=65535, Columns=65535),
        saved(pixels, Rows=9999, Columns=9999),
        saved(pixels, NumberOfFrames=100_000),
        saved(pixels, NumberOfFrames=2**31 - 1),
        saved(pixels, NumberOfFrames=-5),
        saved(pixels, SamplesPerPixel=65535),
        saved(pixels, BitsAllocated=64, BitsStored=64, HighBit=63),
        saved(pixels, BitsStored=0),
        saved(pixels, BitsStored=99),
        saved(pixels, HighBit=77),
        saved(pixels, RescaleSlope="1e300", RescaleIntercept="-1e300"),
        saved(pixels, WindowCenter="nan", WindowWidth="inf"),
        saved(pixels, VOILUTSequence=[table]),
        saved(pixels, ModalityLUTSequence=[table]),
        saved(encapsulate([b"\xff" * 64]), RLELossless, Rows=60_000, Columns=1600),
        saved(encapsulate([struct.pack("<16I", 15, *[0xFFFFFFFF] * 15) + bytes(9)]), RLELossless),
        nested(50),
        nested(100_000),
        huge_jpeg_2000(),
        inflating(),
    ]


MUTATIONS: tuple[Callable[[bytes, Random], bytes], ...] = (
    truncated,
    flipped,
    spliced,
    noisy,
    other_vr,
    other_length,
)


def dicom_files(count: int, seed: int = 0) -> list[bytes]:
    """Return broken files: the bombs first, then mutations in turn."""
    random, whole = np.random.default_rng(seed), seeds()
    found = bombs()[:count]
    while len(found) < count:
        data = whole[random.integers(len(whole))]
        for _ in range(random.integers(1, 3)):
            data = MUTATIONS[len(found) % len(MUTATIONS)](data, random) or b"\0"
        found.append(data)
    return found


def tables(count: int, seed: int = 0) -> list[tuple[str, bytes]]:
    """Return broken tables: (suffix, content)."""
    random = np.random.default_rng(seed)
    lines = [f'{number},"größe {number}, \n normal",{number % 2}' for number in range(200)]
    text = "id,Text,y\n" + "\n".join(lines)
    frame = pd.DataFrame({"id": range(200), "Text": ["größe"] * 200, "y": [0, 1] * 100})
    parquet = BytesIO()
    frame.to_parquet(parquet)
    whole = [("csv", text.encode(name)) for name in ("utf-8", "utf-16", "cp1252")] + [("parquet", parquet.getvalue())]
    made = [
        ("csv", b"id,Text,y\n" + b"1," + b"a" * 20_000_000 + b",0\n"),
        ("csv", b",".join(b"c%d" % number for number in range(50_000)) + b"\n"),
        ("csv", b'id,Text,y\n1,"' + b"x\n" * 1_000_000),
        ("csv", b"id,Text,y\n" + b"\0" * 1_000_000),
        ("csv", b"id,id,id,Text,y\n1,2,3,4,5\n"),
        ("csv", b"id,Text,y\n" + b"1,a,0\n" * 300_000),
        ("parquet", b"PAR1" + bytes(100) + struct.pack("<I", 1 << 30) + b"PAR1"),
    ]
    while len(made) < count:
        suffix, content = whole[random.integers(len(whole))]
        for _ in range(random.integers(1, 4)):
            content = MUTATIONS[int(random.integers(4))](content, random) or b"\n"
        made.append((suffix, content))
    return made[:count]
