"""Weights by plain name come from the hospital's own folder, and from nowhere else."""

from pathlib import Path

import pytest

from fedhealth.models.weights import (
    WEIGHTS_ENV,
    compute_weights_digest,
    find_other_weights,
    find_weights,
    set_weights_folder,
)


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


def test_a_replaced_renamed_or_missing_file_has_another_digest(tmp_path):
    file, folder = tmp_path / "net.safetensors", tmp_path / "bert"
    file.write_bytes(b"one")
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    digests = {name: compute_weights_digest(name, tmp_path) for name in ("net.safetensors", "bert")}
    assert find_other_weights(digests, tmp_path) == []
    file.write_bytes(b"two")
    assert find_other_weights(digests, tmp_path) == ["net.safetensors"]
    (folder / "config.json").rename(folder / "settings.json")
    assert find_other_weights(digests, tmp_path) == ["net.safetensors", "bert"]
    file.unlink()
    assert compute_weights_digest("net.safetensors", tmp_path) == ""
    assert find_other_weights(digests, tmp_path) == ["net.safetensors", "bert"]
