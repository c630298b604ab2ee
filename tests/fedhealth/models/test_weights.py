"""Weights by plain name come from the hospital's own folder, and from nowhere else."""

from pathlib import Path

import pytest

from fedhealth.models.weights import WEIGHTS_ENV, find_weights, set_weights_folder


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    monkeypatch.setenv(WEIGHTS_ENV, "")


def test_a_plain_name_is_looked_up_in_the_folder(tmp_path):
    assert find_weights("resnet18.safetensors") == Path("resnet18.safetensors")
    set_weights_folder(tmp_path)
    assert find_weights("resnet18.safetensors") == tmp_path / "resnet18.safetensors"
    set_weights_folder(None)
    assert find_weights("resnet18.safetensors") == Path("resnet18.safetensors")


def test_a_path_is_taken_as_it_is(tmp_path):
    set_weights_folder(tmp_path)
    assert find_weights("/srv/resnet18.safetensors") == Path("/srv/resnet18.safetensors")
    assert find_weights("models/bert") == Path("models/bert")
    assert find_weights("~/bert") == Path("~/bert").expanduser()
