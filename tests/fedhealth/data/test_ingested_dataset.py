"""An ingested folder as a source of data like any other."""

import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.config.override_allowlist import find_override_errors, select_shared_overrides
from fedhealth.data.dataset import prepare_dataset
from fedhealth.errors import DataError
from fedhealth.models.encoders.image import ImageEncoder
from tests.fedhealth.ingest.hospital import OVERRIDES, Hospital


@pytest.fixture(name="folder", scope="module")
def folder_(tmp_path_factory):
    place = tmp_path_factory.mktemp("ingested")
    Hospital(place / "charite", patients=20).ingest(place / "cohort")
    return place / "cohort"


def overrides(folder, *further):
    place = [f"data.root={folder}", "data.manifest=manifest.csv", "data.sites=[charite]"]
    return ["data=demo", "data/source=ingested", *place, *OVERRIDES, *further]


def data(folder, *further):
    return OmegaConf.to_object(compose_config(overrides(folder, *further))).data


def test_it_is_read_without_decoding_or_copying(folder):
    cohort = prepare_dataset(data(folder), "charite")
    assert isinstance(cohort.images, np.memmap)
    assert (cohort.folder / "images.npy").is_symlink()
    assert cohort.counts()["image"] == 20
    assert len(cohort.rows("train")) > 0


def test_several_ingested_hospitals_on_one_machine(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "all" / "charite")
    found = prepare_dataset(data(tmp_path / "all", "data.manifest='{site}/manifest.csv'"), "charite")
    assert found.counts()["image"] == 20


def test_another_size_than_it_was_ingested_with_is_refused(folder):
    with pytest.raises(DataError, match="1 x 16 x 16, the configuration requires 1 x 32 x 32"):
        prepare_dataset(data(folder, "data.image.size=32"), "charite")


def test_what_was_changed_by_hand_is_refused(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "manifest.csv").write_text((copy / "manifest.csv").read_text() + "\n")
    with pytest.raises(DataError, match="changed after the ingest"):
        prepare_dataset(data(copy), "charite")
    with pytest.raises(DataError, match="no complete ingest"):
        prepare_dataset(data(tmp_path), "charite")


def test_where_data_come_from_is_the_sites_own_and_changes_nothing_that_is_trained(folder):
    plain = [override for override in overrides(folder) if not override.startswith("data/source")]
    assert compute_config_digest(compose_config(plain)) == compute_config_digest(compose_config(overrides(folder)))
    assert select_shared_overrides(["data/source=ingested", "training.batch_size=4"]) == ["training.batch_size=4"]
    assert find_override_errors(["data/source=ingested"]) == ["'data/source=ingested': is for the site to decide"]
    assert find_override_errors(["data.source._target_=os.system"])


def test_eight_and_sixteen_bits_look_alike_to_a_model():
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16), dtype=np.uint8)
    encoder = ImageEncoder().eval()
    deep = torch.from_numpy(images.astype(np.uint16) * 257)
    torch.testing.assert_close(encoder(deep), encoder(torch.from_numpy(images)))
