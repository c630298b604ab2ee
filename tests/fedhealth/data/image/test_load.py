import numpy as np
import pytest
from PIL import Image

from fedhealth.data.image.load import ImageError, load_image
from fedhealth.errors import ConfigError, DataError


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_the_content_counts_not_the_name(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    path = saved(tmp_path / "scan.dcm", pixels, format="PNG")
    np.testing.assert_array_equal(load_image(path, 16, 1)[0], pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_formats_and_channels(tmp_path, kind):
    pixels = np.full((20, 20, 3), (200, 100, 50), dtype=np.uint8)
    path = saved(tmp_path / "image", pixels, format=kind)
    rgb, grey = load_image(path, 10, 3), load_image(path, 10, 1)
    np.testing.assert_allclose(rgb[:, 5, 5], (200, 100, 50), atol=2)
    np.testing.assert_allclose(grey[0, 5, 5], 0.299 * 200 + 0.587 * 100 + 0.114 * 50, atol=2)
    assert (rgb.shape, grey.shape) == ((3, 10, 10), (1, 10, 10))
    assert rgb.flags.c_contiguous


def test_grey_is_repeated_for_three_channels(tmp_path):
    path = saved(tmp_path / "a.png", np.arange(64, dtype=np.uint8).reshape(8, 8))
    rgb = load_image(path, 8, 3)
    assert (rgb == rgb[:1]).all()


def test_exif_orientation_is_honoured(tmp_path):
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    image = load_image(saved(tmp_path / "a.png", pixels, exif=exif), 8, 1)[0]
    assert image[:, -1].tolist() == [255] * 8
    assert not image[:, :-1].any()


def test_the_aspect_is_kept_and_padding_takes_the_borders_value(tmp_path):
    pixels = np.full((10, 20), 90, dtype=np.uint8)
    pixels[3:7, 8:12] = 250  # a square stays a square
    image = load_image(saved(tmp_path / "a.png", pixels), 20, 1)[0]
    assert image[:5].tolist() == image[15:].tolist() == [[90] * 20] * 5
    np.testing.assert_array_equal(image[5:15], pixels)


def test_downscaling_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    image = load_image(saved(tmp_path / "a.png", stripes), 16, 1)[0, 2:-2, 2:-2]
    assert image.min() > 100
    assert image.max() < 155


def test_sixteen_bit_pictures_are_stretched(tmp_path):
    values = np.linspace(1000, 2000, 256).astype(np.uint16).reshape(16, 16)
    image = load_image(saved(tmp_path / "a.png", values), 16, 1)[0]
    assert (image.min(), image.max()) == (0, 255)
    assert (np.diff(image.ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1)])
def test_extreme_shapes(tmp_path, shape):
    assert load_image(saved(tmp_path / "a.png", np.full(shape, 9, dtype=np.uint8)), 8, 3).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"patient 4711", "not a DICOM or image file"),
        (bytes(5000), "not a DICOM or image file"),
        (bytes(128) + b"DICM" + bytes(300), "the header describes no image: truncated, or no image"),
    ],
)
def test_true_reasons(tmp_path, content, reason):
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load_image(path, 8, 1)
    assert caught.value.reason == reason
    assert caught.value.problem == f"{path}: {reason}"
    assert caught.value.advice


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_truncated_pictures(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = saved(tmp_path / "a", noise, format=kind)
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(DataError, match=r"truncated|damaged|not a DICOM"):
        load_image(path, 8, 1)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        load_image(tmp_path / "nothing.dcm", 8, 1)
    with pytest.raises(ImageError, match="directory"):
        load_image(tmp_path, 8, 1)


@pytest.mark.parametrize("limit", [500, 1500])  # Pillow warns above the limit and raises above twice the limit
def test_pillows_bomb_limit_is_an_error(tmp_path, monkeypatch, limit):
    path = saved(tmp_path / "a.png", np.zeros((40, 40), dtype=np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match="more pixels"):
        load_image(path, 8, 1)


def test_own_limits(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", np.zeros((40, 40), dtype=np.uint8))
    monkeypatch.setattr("fedhealth.data.image.load.MAX_PIXELS", 1599)
    with pytest.raises(ImageError, match="more pixels"):
        load_image(path, 8, 1)
    monkeypatch.setattr("fedhealth.data.image.load.MAX_BYTES", 10)
    with pytest.raises(ImageError, match="larger than"):
        load_image(path, 8, 1)


@pytest.mark.parametrize(("size", "channels"), [(8, 2), (0, 1)])
def test_impossible_requests(tmp_path, size, channels):
    with pytest.raises(ConfigError):
        load_image(tmp_path / "a.png", size, channels)
