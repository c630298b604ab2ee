"""Each DICOM feature on a file made here, then every file of the shared corpus."""

import csv
import logging
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pack_bits
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
)

from fedhealth.data.image.load import ImageError, load_image
from fedhealth.errors import DataError
from tests.data_sets import DATA_SETS

CORPUS = DATA_SETS / "dicom" / "files"
RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8)
SECRET = "SECRET^NAME"


def make(pixels=RAMP, syntax=ExplicitVRLittleEndian, **elements):
    """A minimal CT data set around `pixels` [rows, columns], [rows, columns, 3] or raw bytes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3"
    dataset.PatientName = SECRET
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = 8, 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    if isinstance(pixels, np.ndarray):
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        if pixels.dtype == np.uint8:
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        if pixels.ndim == 3:
            dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
            dataset.PhotometricInterpretation = "RGB"
        pixels = pixels.tobytes()
    if pixels is not None:
        dataset.PixelData = pixels
        dataset["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def save(folder, dataset):
    path = folder / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def read(folder, dataset, size=8, channels=1):
    return load_image(save(folder, dataset), size, channels)


def reason(folder, dataset):
    with pytest.raises(ImageError) as caught:
        read(folder, dataset)
    assert "image.dcm" in caught.value.problem
    assert caught.value.advice
    return caught.value.reason


def fault_of(path, size):
    """The error that reading raises, or None; whatever is read must be a picture of the right shape."""
    try:
        image = load_image(path, size, 3)
    except DataError as fault:
        return fault
    assert image.shape == (3, size, size)
    return None


def linear(values, low, high):
    return np.clip((values - low) / (high - low) * 255 + 0.5, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_without_a_window_the_frame_sets_its_own_contrast(tmp_path, syntax):
    image = read(tmp_path, make(syntax=syntax))
    assert image.shape == (1, 8, 8)
    assert image.dtype == np.uint8
    low, high = np.percentile(RAMP, [0.5, 99.5])
    np.testing.assert_array_equal(image[0], linear(RAMP, low, high))


def test_big_endian(tmp_path):
    dataset = make(RAMP.astype(">u2").tobytes(), syntax=ExplicitVRBigEndian)
    np.testing.assert_array_equal(read(tmp_path, dataset), read(tmp_path, make()))


def test_the_first_window_is_used_after_the_rescale(tmp_path):
    dataset = make(RescaleSlope=2, RescaleIntercept=-20, WindowCenter=[20, 0], WindowWidth=[41, 1])
    np.testing.assert_array_equal(read(tmp_path, dataset)[0], linear(RAMP * 2.0 - 20, -0.5, 39.5))


def test_an_invalid_window_falls_back_to_the_frames_own_contrast(tmp_path):
    dataset = make(WindowCenter=20, WindowWidth=0)
    np.testing.assert_array_equal(read(tmp_path, dataset), read(tmp_path, make()))


def test_monochrome1_is_inverted(tmp_path):
    plain = read(tmp_path, make(WindowCenter=32, WindowWidth=64)).astype(int)
    inverted = read(tmp_path, make(WindowCenter=32, WindowWidth=64, PhotometricInterpretation="MONOCHROME1"))
    assert np.abs(255 - plain - inverted).max() <= 1


def lut(descriptor, entries):
    item = Dataset()
    item.LUTDescriptor, item.LUTData = descriptor, entries
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
    return [item]


def test_modality_lut_then_voi_lut_which_wins_over_the_window(tmp_path):
    dataset = make(
        ModalityLUTSequence=lut([64, 0, 16], list(range(0, 640, 10))),
        VOILUTSequence=lut([640, 0, 8], [min(255, value // 3) for value in range(640)]),
        WindowCenter=5,
        WindowWidth=2,
    )
    np.testing.assert_array_equal(read(tmp_path, dataset)[0], (RAMP * 10) // 3)


def test_a_voi_lut_stored_as_words(tmp_path):
    dataset = make(VOILUTSequence=lut([64, 0, 8], list(range(0, 192, 3))))
    item = dataset.VOILUTSequence[0]
    del item.LUTData
    item.add_new("LUTData", "OW", np.arange(0, 192, 3, dtype="<u2").tobytes())
    np.testing.assert_array_equal(read(tmp_path, dataset)[0], RAMP * 3)


def test_signed_pixels(tmp_path):
    pixels = (RAMP.astype(np.int16) - 32).astype(np.int16)
    dataset = make(pixels, PixelRepresentation=1, BitsStored=16, HighBit=15, WindowCenter=0, WindowWidth=65)
    np.testing.assert_array_equal(read(tmp_path, dataset)[0], linear(pixels, -32.5, 31.5))


def test_padding_does_not_set_the_contrast(tmp_path):
    pixels = RAMP.copy()
    pixels[:3] = 4000
    image = read(tmp_path, make(pixels, PixelPaddingValue=4000))
    assert image[0, 3:].max() == 255
    assert image[0, 3:].min() == 0


def test_the_middle_frame_of_several(tmp_path):
    frames = np.stack([RAMP * 0, RAMP, RAMP * 0])
    image = read(tmp_path, make(frames.tobytes(), NumberOfFrames=3))
    np.testing.assert_array_equal(image, read(tmp_path, make()))


def test_the_window_of_an_enhanced_frame(tmp_path):
    window = Dataset()
    window.WindowCenter, window.WindowWidth = 20, 21
    mine, other, shared, scale = Dataset(), Dataset(), Dataset(), Dataset()
    mine.FrameVOILUTSequence, other.FrameVOILUTSequence = [window], []
    scale.RescaleSlope, scale.RescaleIntercept = 2, 1
    shared.PixelValueTransformationSequence = [scale]
    dataset = make(np.stack([RAMP * 0, RAMP]).tobytes(), NumberOfFrames=2)
    dataset.PerFrameFunctionalGroupsSequence = [other, mine]
    dataset.SharedFunctionalGroupsSequence = [shared]
    np.testing.assert_array_equal(read(tmp_path, dataset)[0], linear(RAMP * 2.0 + 1, 9.5, 29.5))


def test_one_bit_frames(tmp_path):
    mask = np.eye(8, dtype=np.uint8)
    dataset = make(pack_bits(mask.ravel()), BitsAllocated=1, BitsStored=1, HighBit=0)
    np.testing.assert_array_equal(read(tmp_path, dataset)[0], mask * 255)


def test_float_pixels_and_their_window(tmp_path):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    dataset = make(None, WindowCenter=0.5, WindowWidth=1, BitsAllocated=32)
    del dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.FloatPixelData = values.tobytes()
    np.testing.assert_array_equal(read(tmp_path, dataset)[0], linear(values, 0, 1))


def test_colour_and_its_grey(tmp_path):
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[..., 0] = 200
    image = read(tmp_path, make(pixels), channels=3)
    assert image.shape == (3, 8, 8)
    assert image[:, 0, 0].tolist() == [200, 0, 0]
    assert read(tmp_path, make(pixels))[0, 0, 0] == round(200 * 0.299)


def test_sixteen_bit_colour(tmp_path):
    pixels = np.full((8, 8, 3), 0x80FF, dtype=np.uint16)
    image = read(tmp_path, make(pixels, BitsStored=16, HighBit=15), channels=3)
    assert set(image.ravel().tolist()) == {round(0x80FF / 257)}


def test_ybr_becomes_rgb(tmp_path):
    pixels = np.full((8, 8, 3), (76, 85, 255), dtype=np.uint8)  # pure red
    image = read(tmp_path, make(pixels, PhotometricInterpretation="YBR_FULL"), channels=3)
    np.testing.assert_allclose(image[:, 0, 0], [254, 0, 0], atol=1)


@pytest.mark.parametrize(("bits", "scale"), [(8, 1), (16, 257), (16, 1)])
def test_palettes_of_any_depth(tmp_path, bits, scale):
    pixels = np.tile(np.arange(8, dtype=np.uint8), (8, 1))
    dataset = make(pixels, PhotometricInterpretation="PALETTE COLOR")
    for number, color in enumerate(("Red", "Green", "Blue")):
        entries = (np.arange(8) * 10 * number + 5) * scale
        setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [8, 0, bits])
        setattr(dataset, f"{color}PaletteColorLookupTableData", entries.astype(f"<u{bits // 8}").tobytes())
    assert read(tmp_path, dataset, channels=3)[:, 0, 3].tolist() == [5, 35, 65]


def test_jpeg_2000(tmp_path):
    dataset = make(np.zeros((32, 32), dtype=np.uint8) + np.arange(32, dtype=np.uint8) * 7)
    plain = read(tmp_path, dataset, size=32)
    dataset = make(None, syntax=JPEG2000Lossless, BitsAllocated=8, BitsStored=8, HighBit=7, Rows=32, Columns=32)
    dataset.PixelData = encapsulate([jpeg_2000(np.tile(np.arange(32, dtype=np.uint8) * 7, (32, 1)))])
    dataset["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(read(tmp_path, dataset, size=32), plain)


def jpeg_2000(pixels):
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", no_jp2=True)
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_data_set_without_preamble_and_meta(tmp_path, syntax):
    dataset = make(RAMP.astype(">u2").tobytes() if syntax == ExplicitVRBigEndian else RAMP, syntax=syntax)
    plain = read(tmp_path, make())
    del dataset.file_meta
    path = tmp_path / "bare"
    dataset.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    np.testing.assert_array_equal(load_image(path, 8, 1), plain)


def test_true_reasons(tmp_path):
    assert reason(tmp_path, make(None)) == "no pixel data"
    assert reason(tmp_path, make(RAMP.tobytes()[:-2])) == "truncated pixel data"
    assert reason(tmp_path, make(Rows=0)) == "no image size (Rows, Columns) in the header"
    assert "JPEG-LS" in reason(tmp_path, make(syntax=JPEGLSLossless, PixelData=encapsulate([b"\0\1"])))
    path = save(tmp_path, make())
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.7\0"))
    with pytest.raises(ImageError, match=r"no decoder for transfer syntax 1\.2\.840\.10008\.1\.2\.7"):
        load_image(path, 8, 1)
    damaged = make(syntax=JPEG2000Lossless, PixelData=encapsulate([b"\0\1"]))
    assert "cannot be decoded" in reason(tmp_path, damaged)
    assert "empty lookup table" in reason(tmp_path, make(VOILUTSequence=lut([0, 0, 8], [])))


def test_bombs_are_refused_from_the_header(tmp_path, monkeypatch):
    assert "65535 x 65535" in reason(tmp_path, make(Rows=65535, Columns=65535))
    assert reason(tmp_path, make(NumberOfFrames=100_000)) == "truncated pixel data"
    monkeypatch.setattr("fedhealth.data.image.dicom.MAX_BYTES", 1000)
    path = save(tmp_path, make(np.zeros((99, 99), dtype=np.uint16), syntax=DeflatedExplicitVRLittleEndian))
    with pytest.raises(ImageError, match="deflated"):
        load_image(path, 8, 1)


def test_a_jpeg_2000_stream_larger_than_its_header_says_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    dataset = make(None, syntax=JPEG2000Lossless, BitsAllocated=8, BitsStored=8, HighBit=7)
    dataset.PixelData = encapsulate([jpeg_2000(np.zeros((25, 25), dtype=np.uint8))])
    dataset["PixelData"].is_undefined_length = True
    assert "cannot be decoded" in reason(tmp_path, dataset)


def test_messages_and_logs_quote_no_patient_data(tmp_path, caplog, recwarn):
    dataset = make(RAMP.tobytes() + b"\0" * 10, StudyDate="", PatientSex="")
    data = save(tmp_path, dataset).read_bytes().replace(b"MONOCHROME2 ", b"SECRET^NAME ")
    path = tmp_path / "leak.dcm"
    path.write_bytes(data)
    with caplog.at_level(logging.DEBUG):
        fault = fault_of(path, 8)
    assert fault is not None
    assert "SECRET" not in str(fault)
    assert fault.__suppress_context__
    assert "SECRET" not in caplog.text
    assert not recwarn.list


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_raise_nothing_but_data_errors(tmp_path, data):
    whole = bytearray(save(tmp_path, make(WindowCenter=9, WindowWidth=5, RescaleSlope=1)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.dcm"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    fault = fault_of(path, 8)
    assert fault is None or ("damaged.dcm" in fault.problem and SECRET not in str(fault))


def corpus():
    index = DATA_SETS / "dicom" / "files.csv"
    if not index.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no DICOM corpus at {index.parent}"))]
    with index.open(newline="") as file:
        return [pytest.param(row, id=row["file"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("row", corpus())
def test_every_file_of_the_corpus_decodes_or_says_why(row):
    fault = fault_of(CORPUS / row["file"], 32)
    if row["pixels_plain_pydicom"].startswith("ok"):  # what pydicom alone decodes, we decode
        assert fault is None
    assert fault is None or (row["file"] in fault.problem and fault.advice)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no DICOM corpus")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pdd_emri_small.dcm", "pdd_emri_small_RLE.dcm"),
        ("pdd_emri_small.dcm", "pdd_emri_small_big_endian.dcm"),
        ("pdd_emri_small.dcm", "pdd_emri_small_jpeg_2k_lossless.dcm"),
        ("pdd_liver.dcm", "pdd_liver_expb.dcm"),
        ("pdd_liver.dcm", "pdd_liver_j2k.dcm"),
        ("pdd_SC_rgb.dcm", "pdd_SC_rgb_16bit.dcm"),
        ("pdd_SC_rgb.dcm", "pdd_SC_rgb_expb_32bit.dcm"),
        ("pdd_color-pl.dcm", "pdd_color-px.dcm"),
    ],
)
def test_the_same_picture_in_another_encoding_is_the_same_picture(one, other):
    np.testing.assert_array_equal(load_image(CORPUS / one, 64, 3), load_image(CORPUS / other, 64, 3))
