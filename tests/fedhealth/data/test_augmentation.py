"""Augmentations by configuration: a closed list of transforms that keep the size of an image."""

import pytest
import torch
from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config, get_conf_dir
from fedhealth.config.instantiate import instantiate
from fedhealth.data.augmentation import KNOWN_TRANSFORMS, Augmentation
from fedhealth.errors import ConfigError

OPTIONS = sorted(path.stem for path in (get_conf_dir() / "training" / "augmentation").glob("*.yaml"))


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_option_changes_images_and_keeps_their_form(option, channels):
    config = OmegaConf.to_object(compose_config(["data.root=x", f"training/augmentation={option}"]))
    change = instantiate(config.training.augmentation)
    images = torch.randint(0, 256, (4, channels, 24, 24), dtype=torch.uint8)
    found = change.change_images(images, torch.ones(4, dtype=torch.bool))
    assert (found.shape, found.dtype) == (images.shape, images.dtype)
    assert not torch.equal(found, images)


def test_the_medical_default_flips_nothing():
    text = (get_conf_dir() / "training" / "augmentation" / "medical.yaml").read_text()
    names = [each["name"] for each in OmegaConf.create(text)["transforms"]]
    assert names
    assert set(names) <= set(KNOWN_TRANSFORMS)
    assert not any("Flip" in name for name in names)


@pytest.mark.parametrize(
    ("transforms", "copies", "message"),
    [
        ([{"name": "RandomCrop", "size": 4}], 1, "'RandomCrop' is not allowed"),
        ([{"name": "Lambda"}], 1, "'Lambda' is not allowed"),
        ([{"name": "RandomAffine", "degree": 4}], 1, "RandomAffine cannot be built"),
        ([], 0, "copies: must be at least 1"),
    ],
)
def test_what_is_not_in_the_list_is_refused(transforms, copies, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation(transforms, copies)
