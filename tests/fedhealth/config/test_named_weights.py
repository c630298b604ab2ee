"""The weights that a study names."""

from fedhealth.config.named_weights import list_named_weights
from fedhealth.config.open_paths import OpenPath


def test_weights_of_the_configuration_and_of_open_values_are_named():
    configuration = {
        "model": {"image": {"weights": "net.safetensors"}, "text": {"pretrained": None, "layers": 1}},
        "secagg": {"weights": "bucket"},
        "tracking": {"weights": False},
    }
    open_paths = [OpenPath("model.text.pretrained", ("bert", None)), OpenPath("seed", (1, 2))]
    assert list_named_weights(configuration, ()) == ["net.safetensors"]
    assert list_named_weights(configuration, open_paths) == ["bert", "net.safetensors"]
    assert list_named_weights({"model": None}, ()) == []
