"""Decoded pixels against reference pixels: pairs of one picture in two encodings, from two corpora."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGExtended12Bit

from fedhealth.data.image.decoders import (
    _read_uncompressed_frame,
    decode_stored_frame,
    get_transfer_syntax,
    has_decoder,
)
from fedhealth.data.image.dicom import count_frames, open_dicom, read_frame
from fedhealth.data.image.errors import ImageError
from fedhealth.data.image.load import guard_parsers, load_image
from tests.data_sets import DATA_SETS

CORPUS = DATA_SETS / "dicom" / "files"
PACKAGED = Path(pydicom.data.__file__).parent / "test_files"
PALE = 6  # grey levels that lossy encodings of one picture may differ by, in the mean

# (one, other, tolerance of the mean absolute difference)
PACKAGED_PAIRS = [
    *[("MR_small.dcm", f"MR_small_{kind}.dcm", 0) for kind in ("RLE", "bigendian", "expb", "implicit", "jp2klossless")],
    *[("MR_small.dcm", f"MR_small_{kind}.dcm", 0) for kind in ("jpeg_ls_lossless", "padded")],
    *[("rtdose.dcm", f"rtdose_{kind}.dcm", 0) for kind in ("expb", "rle")],
    ("rtdose_1frame.dcm", "rtdose_rle_1frame.dcm", 0),
    ("liver_1frame.dcm", "liver_expb_1frame.dcm", 0),
    ("SC_rgb_rle.dcm", "SC_rgb_rle_2frame.dcm", 0),
    ("SC_rgb_rle_16bit.dcm", "SC_rgb_rle_16bit_2frame.dcm", 0),
    ("SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm", 0),
    ("SC_rgb_rle.dcm", "SC_rgb_jls_lossy_sample.dcm", PALE),
    ("SC_rgb_rle.dcm", "SC_rgb_jls_lossy_line.dcm", PALE),
    ("SC_rgb_rle.dcm", "SC_rgb_gdcm_KY.dcm", PALE),
    ("SC_rgb_rle.dcm", "SC_ybr_full_422_uncompressed.dcm", PALE),
    ("SC_rgb_jpeg_dcmd.dcm", "SC_rgb_jpeg.dcm", 0),
    ("SC_rgb_jpeg_dcmd.dcm", "SC_rgb_jpeg_app14_dcmd.dcm", PALE),
    ("SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm", 0),
]
LIVER = [f"pdd_liver{shape}" for shape in ("", "_nonbyte_aligned")]
CORPUS_PAIRS = [
    *[(f"{liver}.dcm", f"{liver}_{kind}.dcm", 0) for liver in LIVER for kind in ("deflate", "j2k", "rle")],
    ("pdd_liver.dcm", "pdd_liver_expb.dcm", 0),
    *[
        ("pdd_emri_small.dcm", f"pdd_emri_small_{kind}.dcm", 0)
        for kind in ("RLE", "big_endian", "jpeg_2k_lossless", "jpeg_ls_lossless")
    ],
    *[("pdd_JLSL_RGB_ILV0.dcm", f"pdd_JLSL_RGB_ILV{number}.dcm", 0) for number in (1, 2)],
    ("pdd_JLSL_RGB_ILV0.dcm", "pdd_JLSN_RGB_ILV0.dcm", PALE),
    ("pdd_HTJ2KLossless_08_RGB.dcm", "pdd_HTJ2K_08_RGB.dcm", PALE),
    ("pdd_color-pl.dcm", "pdd_color-px.dcm", 0),
    ("pdd_OBXXXX1A_rle.dcm", "pdd_OBXXXX1A_rle_2frame.dcm", 0),
    *[(f"pdd_SC_rgb{kind}.dcm", f"pdd_SC_rgb_expb{kind}.dcm", 0) for kind in ("", "_16bit", "_32bit", "_32bit_2frame")],
    ("pdd_SC_rgb.dcm", "pdd_SC_rgb_gdcm2k_uncompressed.dcm", PALE),
    ("pdd_SC_rgb.dcm", "pdd_SC_ybr_full_uncompressed.dcm", PALE),
    *[
        ("pdd_SC_rgb.dcm", f"pdd_SC_rgb_dcmtk_eb{kind}_dcmd.dcm", PALE)
        for kind in ("cr", "cyn1", "cyn2", "cynp", "cys2")
    ],
]
MIXED_PAIRS = [  # (corpus, packaged): what dcmtk decoded, and what it decoded it from
    *[
        (f"pdd_SC_rgb_dcmtk_eb{a}_dcmd.dcm", f"SC_rgb_dcmtk_+eb+{b}.dcm", 0)
        for a, b in (("cr", "cr"), ("cyn1", "cy+n1"))
    ],
    *[
        (f"pdd_SC_rgb_dcmtk_ebcy{kind}_dcmd.dcm", f"SC_rgb_dcmtk_+eb+cy+{kind}.dcm", 1)
        for kind in ("n2", "np", "s2", "s4")
    ],
    ("pdd_SC_rgb.dcm", "SC_rgb_rle.dcm", 0),
]
ALONE = {  # of files without a pair: digests of what gdcm 3.2 and libjpeg 2.5 made of their middle frame
    "pdd_693_J2KR.dcm": "146079e74cc2706e",
    "pdd_JLSL_08_07_0_1F.dcm": "db1a54eea858fffa",
    "pdd_JLSL_16_15_1_1F.dcm": "1ac40d4ae00ec85a",
    "pdd_JPGLosslessP14SV1_1s_1f_8b.dcm": "11f0fa23d49bebbc",
    "pdd_MR2_J2KI.dcm": "b1d4b21380fd9641",
    "pdd_OT-PAL-8-face.dcm": "98aa3119c89755a6",
    "pdd_SC_rgb_16bit_2frame.dcm": "5c814bc82a6156ce",
    "pdd_SC_rgb_2frame.dcm": "9067b9fb7cd275ae",
    "pdd_SC_rgb_expb_16bit_2frame.dcm": "5c814bc82a6156ce",
    "pdd_SC_rgb_expb_2frame.dcm": "9067b9fb7cd275ae",
    "pdd_bad_sequence.dcm": "3b2910459bd703f9",
    "pdd_explicit_VR-UN.dcm": "db8e961ba9985a30",
    "pdd_parametric_map_double_float.dcm": "10ba9bdb66165a13",
    "pdd_parametric_map_float.dcm": "e776c51ab3b2714a",
    "pdd_vlut_04.dcm": "5141cfce6cf71a10",
    "seed_ct_128x128_16bit_evle.dcm": "004e7371dc5ee310",
    "seed_dx_352x370_14bit_evle.dcm": "c7cd09ebd00c42b2",
    "seed_mr_64x64_16bit_evle.dcm": "e37cddda6b3ad919",
    "seed_nm_64x64x13f_16bit_evle.dcm": "9f8a2a35fbe765e7",
    "seed_pt_256x256_16bit_jpls.dcm": "c1753f99d637c8d9",
    "seed_rtdose_10x10x15f_32bit_ivle.dcm": "8b00c5fd2cf724ff",
    "seed_seg_128x128x13f_1bit_evle.dcm": "846646347118393a",
}
SET_ASIDE = {  # every packaged file that holds an image and cannot be read, and why that is true
    "MR_truncated.dcm": "truncated pixel data",
    "JPEG2000-embedded-sequence-delimiter.dcm": "cannot be decoded",  # no decoder of four reads it
    "badVR.dcm": "the file is damaged",  # the number of frames is '1A'
    "meta_missing_tsyntax.dcm": "the header describes no image",
    "nested_priv_SQ.dcm": "the header describes no image",
}
NO_IMAGE = ("no pixel data", "not a DICOM", "the header describes no image", "a DICOM directory")


def decoded(path, index=0):
    with path.open("rb") as file, guard_parsers():
        dataset = open_dicom(file)
        return count_frames(dataset), decode_stored_frame(dataset, index).astype(np.int64)


def difference(one, other):
    (several, first), (many, second) = decoded(one), decoded(other)
    worst = np.abs(first - second).mean()
    for index in range(1, min(several, many)):
        worst = max(worst, np.abs(decoded(one, index)[1] - decoded(other, index)[1]).mean())
    return worst


@pytest.mark.parametrize(("one", "other", "tolerance"), PACKAGED_PAIRS, ids=str)
def test_packaged_pairs(one, other, tolerance):
    assert difference(PACKAGED / one, PACKAGED / other) <= tolerance


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no DICOM corpus")
@pytest.mark.parametrize(("one", "other", "tolerance"), CORPUS_PAIRS, ids=str)
def test_corpus_pairs(one, other, tolerance):
    assert difference(CORPUS / one, CORPUS / other) <= tolerance


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no DICOM corpus")
@pytest.mark.parametrize(("one", "other", "tolerance"), MIXED_PAIRS, ids=str)
def test_pairs_across_the_corpora(one, other, tolerance):
    assert difference(CORPUS / one, PACKAGED / other) <= tolerance


def reason(path):
    try:
        load_image(path, 32, 3)
    except ImageError as fault:
        return fault.reason
    return ""


def test_every_packaged_file_is_decoded_or_set_aside_with_a_true_reason():
    for path in sorted(path for path in PACKAGED.rglob("*") if path.is_file()):
        why = reason(path)
        if path.name in SET_ASIDE:
            assert SET_ASIDE[path.name] in why, path.name
        else:
            assert not why or why.startswith(NO_IMAGE), (path.name, why)
        assert bool(why) or has_pixels(path), path.name


def has_pixels(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
    return any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no DICOM corpus")
def test_every_file_of_the_corpus_that_has_pixels_is_decoded():
    unread = {path.name: why for path in sorted(CORPUS.glob("*.dcm")) if (why := reason(path))}
    assert unread == {
        "pdd_emri_small_jpeg_2k_lossless_too_short.dcm": ("the header describes no image: truncated, or no image"),
        "seed_doc_evle.dcm": "no pixel data",
        "seed_rtstruct_ivle.dcm": "no pixel data",
    }


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_twelve_bit_jpeg(name):
    with (PACKAGED / name).open("rb") as file:
        dataset = open_dicom(file)
        assert dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit
        assert has_decoder(dataset)
        with guard_parsers():
            pixels = decode_stored_frame(dataset, 0)
    assert pixels.dtype.itemsize == 2
    assert 255 < pixels.max() < 4096


def unaligned(values, high, stored, signed=False, syntax=ExplicitVRLittleEndian):
    """Put `values` of `stored` bits below bit `high`, with rubbish in the bits around them."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, stored, high
    dataset.PixelRepresentation = int(signed)
    shift = high + 1 - stored
    mask = ((1 << stored) - 1) << shift
    rubbish = np.random.default_rng(0).integers(0, 1 << 16, values.shape)
    words = ((values << shift) & mask) | (rubbish & ~mask)
    order = "<u2" if syntax.is_little_endian else ">u2"
    dataset.add_new("PixelData", "OW", words.astype(order).tobytes())
    dataset.set_original_encoding(False, syntax.is_little_endian)
    return dataset


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("high", "stored"), [(11, 12), (15, 12), (13, 10), (15, 16)])
def test_bits_beside_the_stored_ones_do_not_count(high, stored, signed, syntax):
    values = np.arange(64).reshape(8, 8) - (32 if signed else 0)
    assert decode_stored_frame(unaligned(values, high, stored, signed, syntax), 0).tolist() == values.tolist()


def test_a_table_of_all_values_gives_the_same_picture_as_each_pixel_by_itself(monkeypatch):
    values = np.random.default_rng(1).integers(-500, 3000, (64, 64))
    for further in ({}, {"WindowCenter": 900, "WindowWidth": 1000}, {"PixelPaddingValue": -500}):
        dataset = unaligned(values, 15, 16, signed=True)
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, -1024
        for keyword, value in further.items():
            setattr(dataset, keyword, value)
        for bits in (8, 16):
            plain = read_frame(dataset, 0, bits)
            with monkeypatch.context() as patch:
                patch.setattr("fedhealth.data.image.display._LUT_MIN_PIXELS", 0)
                looked_up = read_frame(dataset, 0, bits)
            assert plain.dtype == looked_up.dtype == (np.uint8 if bits == 8 else np.uint16)
            assert np.abs(plain.astype(int) - looked_up.astype(int)).max() <= 1


def test_plain_frames_are_what_pydicom_reads():
    plain = 0
    for path in [*sorted(PACKAGED.glob("*.dcm")), *sorted(CORPUS.glob("*.dcm"))]:
        try:
            with path.open("rb") as file, guard_parsers():
                dataset = open_dicom(file)
                syntax = get_transfer_syntax(dataset)
                index = count_frames(dataset) - 1
                found = None if syntax.is_encapsulated else _read_uncompressed_frame(dataset, index, syntax)
        except (ImageError, AttributeError, ValueError):
            continue
        if found is not None:
            with guard_parsers():
                expected = pixel_array(dataset, index=index, correct_unused_bits=False)
            np.testing.assert_array_equal(found, expected, err_msg=path.name)
            assert found.dtype == expected.dtype.newbyteorder("=")
            plain += 1
    assert plain >= (15 if CORPUS.is_dir() else 9)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no DICOM corpus")
@pytest.mark.parametrize("name", ALONE)
def test_files_without_a_pair_are_what_other_decoders_made_of_them(name):
    with (CORPUS / name).open("rb") as file, guard_parsers():
        dataset = open_dicom(file)
        frame = decode_stored_frame(dataset, count_frames(dataset) // 2)
    assert hashlib.sha256(np.ascontiguousarray(frame, "<f8").tobytes()).hexdigest()[:16] == ALONE[name]


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no DICOM corpus")
def test_every_decoded_file_of_the_corpus_is_compared_with_a_reference():
    compared = {name for one, other, _ in CORPUS_PAIRS for name in (one, other)} | {one for one, _, _ in MIXED_PAIRS}
    decoded_ones = {path.name for path in CORPUS.glob("*.dcm") if not reason(path)}
    assert decoded_ones == compared | set(ALONE)
