import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import get_model
from transformers import CLIPConfig, CLIPModel

from fedhealth.errors import ModelError
from fedhealth.models.encoders.base import compute_fingerprint
from fedhealth.models.encoders.concat import ConcatEncoder
from fedhealth.models.encoders.image import ImageEncoder
from fedhealth.models.encoders.pixel_scaling import IMAGENET, scale_pixels
from fedhealth.models.encoders.pretrained_image import PretrainedImageEncoder
from tests.tiny_encoders import save_image_encoder, save_text_encoder


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


@pytest.mark.parametrize("head", [None, 7])
def test_a_backbone_loads_without_its_head_or_with_another_one(weights, tmp_path, head):
    state = {name: value for name, value in load_file(weights).items() if not name.startswith("classifier.1")}
    if head:
        state |= {"classifier.1.weight": torch.zeros(head, 1280), "classifier.1.bias": torch.zeros(head)}
    save_file(state, tmp_path / "other.safetensors")
    grey = images(1)
    found, whole = (
        ImageEncoder("mobilenet_v2", str(w), train="none").eval() for w in (tmp_path / "other.safetensors", weights)
    )
    with torch.inference_mode():
        torch.testing.assert_close(found(grey), whole(grey))


def test_a_backbone_that_lacks_more_than_its_head_is_refused(weights, tmp_path):
    state = {name: value for name, value in load_file(weights).items() if not name.startswith("features.3")}
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ModelError, match=r"does not fit mobilenet_v2: it lacks \d+ arrays, such as features\.3"):
        ImageEncoder("mobilenet_v2", str(tmp_path / "part.safetensors"), train="none")


def test_channels_are_scaled_one_by_one_or_by_a_published_name(weights):
    colour = images(3)
    mean, std = IMAGENET
    named, written, published = (
        ImageEncoder("mobilenet_v2", weights, train="none", **settings).eval()
        for settings in (
            {"normalization": "imagenet"},
            {"mean": list(mean), "std": list(std)},
            {"normalization": "MobileNet_V2_Weights.IMAGENET1K_V1"},
        )
    )
    expected = (colour.float() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    for encoder in (named, written, published):
        torch.testing.assert_close(scale_pixels(colour, encoder.front.scale, 3), expected)
    assert compute_fingerprint(named) == compute_fingerprint(written) != compute_fingerprint(ImageEncoder())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalization": "imaginary"}, "there is no 'imaginary'"),
        ({"mean": [0.5, 0.5], "std": [0.5, 0.5, 0.5]}, "do not fit each other"),
        ({"std": 0.0}, "do not fit each other"),
        ({"mean": [0.5, 0.5, 0.5], "std": 0.5}, "the scale has 3 channels, the network 1"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ModelError, match=message):
        ImageEncoder(**settings)


def test_a_pretrained_encoder_takes_its_published_scale(tmp_path):
    folder = save_image_encoder(tmp_path / "vit", "vit")
    with pytest.raises(ModelError, match="does not say which mean and std"):
        PretrainedImageEncoder(str(folder))
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    assert PretrainedImageEncoder(str(folder)).scale.mean == (0.1, 0.2, 0.3)


def test_the_vision_tower_of_clip_is_loaded_alone(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    whole = CLIPModel(
        CLIPConfig(text_config={**sizes, "vocab_size": 20}, vision_config=vision, projection_dim=8)
    ).eval()
    whole.save_pretrained(tmp_path)
    encoder = PretrainedImageEncoder(str(tmp_path), normalization="clip").eval()
    assert not any("text" in name for name in encoder.state_dict())
    colour = images(3)
    with torch.inference_mode():
        expected = whole.vision_model(scale_pixels(colour, encoder.scale, 3)).pooler_output
        torch.testing.assert_close(encoder(colour), expected)


@pytest.mark.parametrize("name", ["gone", "text"])
def test_a_folder_without_a_vision_encoder_is_refused(tmp_path, name):
    save_text_encoder(tmp_path / "text", "bert")
    with pytest.raises(ModelError, match=r"no folder|does not read images"):
        PretrainedImageEncoder(str(tmp_path / name), normalization="half")


def test_several_encoders_stand_side_by_side(weights, tmp_path):
    both = [ImageEncoder(), PretrainedImageEncoder(str(save_image_encoder(tmp_path, "vit")), normalization="half")]
    encoder, grey = ConcatEncoder(dict(zip("ab", both, strict=True))).eval(), images(1)
    assert encoder.width == 96 + 8
    with torch.inference_mode():
        torch.testing.assert_close(encoder(grey), torch.cat([each.eval()(grey) for each in both], dim=1))
    with pytest.raises(ModelError, match="fewer than two"):
        ConcatEncoder({"a": both[0]})
