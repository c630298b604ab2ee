"""Weights by plain name come from the hospital's own folder, and from nowhere else."""

from pathlib import Path

import pytest

from fedhealth.models.weights import VARIABLE, stored, use_folder


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")


def test_a_plain_name_is_looked_up_in_the_folder(tmp_path):
    assert stored("resnet18.safetensors") == Path("resnet18.safetensors")
    use_folder(tmp_path)
    assert stored("resnet18.safetensors") == tmp_path / "resnet18.safetensors"
    use_folder(None)
    assert stored("resnet18.safetensors") == Path("resnet18.safetensors")


def test_a_path_is_taken_as_it_is(tmp_path):
    use_folder(tmp_path)
    assert stored("/srv/resnet18.safetensors") == Path("/srv/resnet18.safetensors")
    assert stored("models/bert") == Path("models/bert")
    assert stored("~/bert") == Path("~/bert").expanduser()
