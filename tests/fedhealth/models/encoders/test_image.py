import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import get_model

from fedhealth.errors import ModelError
from fedhealth.models.encoders.base import compute_fingerprint
from fedhealth.models.encoders.image import ImageEncoder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A full mobilenet_v2 state in half precision, as it is shared."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.safetensors"
    state = get_model("mobilenet_v2", weights=None).state_dict()
    save_file({name: value.half() if value.is_floating_point() else value for name, value in state.items()}, path)
    return str(path)


def images(channels, size=32, count=3):
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_small_network_reads_grey_and_colour(channels):
    encoder = ImageEncoder()
    features = encoder(images(channels))
    assert features.shape == (3, encoder.width) == (3, 96)
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 100_000


def test_grey_values_are_scaled_the_same_whatever_their_type():
    encoder = ImageEncoder().eval()
    grey = images(1)
    torch.testing.assert_close(encoder(grey), encoder(grey.float()))


def test_a_torchvision_network_loses_its_classifier_and_keeps_its_weights(weights):
    encoder = ImageEncoder("mobilenet_v2", weights, train="none").eval()
    assert encoder.width == 1280
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    original = get_model("mobilenet_v2", weights=None).eval()
    original.load_state_dict({name: value.float() for name, value in load_file(weights).items()}, strict=False)
    grey = images(1)
    scaled = ((grey.float() / 255 - 0.5) / 0.5).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        expected = original.features(scaled).mean(dim=(2, 3))
        torch.testing.assert_close(encoder(grey), expected, rtol=1e-4, atol=1e-5)


def test_only_the_named_part_is_trained(weights):
    encoder = ImageEncoder("mobilenet_v2", weights, train=["features.18"])
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith("network.features.18.") for name in trained)


def test_a_prefix_is_a_whole_name(weights):
    encoder = ImageEncoder("mobilenet_v2", weights, train="features.1")
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith("network.features.1.") for name in trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "resnet1"}, "torchvision has no 'resnet1'"),
        ({"architecture": "fasterrcnn_resnet50_fpn"}, "torchvision has no"),
        ({"architecture": "squeezenet1_1"}, "no linear classifier"),
        ({"train": "none"}, "a frozen small_cnn without weights"),
        ({"train": ["layer9"]}, "no parameter lies under 'layer9'"),
        ({"architecture": "resnet18", "weights": "gone.safetensors"}, r"gone\.safetensors cannot be read"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        ImageEncoder(**arguments)


def test_weights_of_another_network_are_refused(weights):
    with pytest.raises(ModelError, match="does not fit resnet18"):
        ImageEncoder("resnet18", weights)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "w").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ModelError, match="cannot be read"):
        ImageEncoder(weights=str(tmp_path / "w"))


def test_the_identity_tells_settings_apart():
    def made(**settings):
        torch.manual_seed(0)
        return compute_fingerprint(ImageEncoder(**settings))

    assert made() == made()
    assert made() != made(mean=0.4)


def test_a_shortened_network_is_the_whole_ones_beginning():
    torch.manual_seed(0)
    whole = ImageEncoder("mobilenet_v2").eval()
    torch.manual_seed(0)
    short = ImageEncoder("mobilenet_v2", depth=18).eval()
    assert (whole.width, short.width) == (1280, 320)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        expected = whole.network.features[:18](whole.front(images)).mean((2, 3))
        torch.testing.assert_close(short(images), expected)


@pytest.mark.parametrize(
    ("architecture", "depth", "said"),
    [
        ("mobilenet_v2", 20, "has 19 layers"),
        ("mobilenet_v2", 0, "has 19 layers"),
        ("resnet18", 3, "is not a sequence of layers"),
        ("small_cnn", 1, "is not a sequence of layers"),
        ("squeezenet1_1", 5, "no linear classifier"),
        ("vgg11", 3, "do not fit"),
    ],
)
def test_a_depth_that_a_network_does_not_have(architecture, depth, said):
    with pytest.raises(ModelError, match=said):
        ImageEncoder(architecture, depth=depth)


@pytest.mark.parametrize(
    ("architecture", "train", "taken", "left"),
    [
        ("mobilenet_v2", ["features.18"], 18, "network.features.18.0.weight"),
        ("small_cnn", ["6"], 6, "network.6.weight"),
        ("small_cnn", "all", 0, "network.0.weight"),
        ("resnet18", ["layer4"], 0, "network.layer4.0.conv1.weight"),
    ],
)
def test_the_frozen_front_is_apart_and_names_stay(architecture, train, taken, left):
    torch.manual_seed(0)
    whole = ImageEncoder(architecture).eval()
    torch.manual_seed(0)
    part = ImageEncoder(architecture, train=train).eval()
    assert len(part.front.layers) == taken
    assert next(name for name, p in part.named_parameters() if p.requires_grad) == left
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(part(images), whole(images))
