"""Low-rank adapters: what is trained, what travels, and that private training takes them."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.data.dataset import prepare_dataset
from fedhealth.data.examples import build_examples
from fedhealth.errors import ModelError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.models.encoders.image import ImageEncoder
from fedhealth.models.encoders.text import TextEncoder
from fedhealth.models.lora import LoraSettings
from fedhealth.models.model_state import list_trained_arrays
from fedhealth.models.multimodal import build_model
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.runs.run_dir import RunDir
from fedhealth.training.losses import compute_row_losses
from tests.fedhealth.privacy.toys import relative_error, sums

SITES = ("north", "south", "east")
SMALL = {"pretrained": None, "hidden": 8, "buckets": 32, "max_length": 8}


def config_from(overrides):
    return compose_job_config(Job("run", tuple(overrides), compute_config_digest(compose_config(overrides)), ""))


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_only_the_adapters_are_trained():
    encoder = TextEncoder(**SMALL, train="none", lora=LoraSettings(2))
    names = trained(encoder)
    assert len(names) == 4
    assert all(".lora_A." in name or ".lora_B." in name for name in names)


def test_untrained_adapters_change_nothing_and_the_seed_decides_them():
    torch.manual_seed(0)
    plain = TextEncoder(**SMALL, dropout=0.0)
    torch.manual_seed(0)
    adapted = TextEncoder(**SMALL, dropout=0.0, train="none", lora=LoraSettings(2))
    torch.manual_seed(0)
    again = TextEncoder(**SMALL, dropout=0.0, train="none", lora=LoraSettings(2))
    ids = torch.randint(1, 32, (3, 8))
    assert torch.equal(plain(ids), adapted(ids))
    assert all(torch.equal(a, b) for a, b in zip(adapted.parameters(), again.parameters(), strict=True))


def test_convolutions_take_adapters_and_stay_in_evaluation_mode():
    encoder = ImageEncoder("resnet18", train="none", norm="freeze", lora=LoraSettings(2, targets=["layer4.1.conv2"]))
    assert all(".conv2.lora_" in name for name in trained(encoder))
    assert encoder(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).shape == (2, 512)


def test_faults_say_what_to_do():
    with pytest.raises(ModelError, match="frozen encoder"):
        TextEncoder(**SMALL, train="all", lora=LoraSettings(2))
    with pytest.raises(ModelError, match=r"model.text.lora.*querry") as caught:
        TextEncoder(**SMALL, train="none", lora=LoraSettings(2, targets=["querry"]))
    assert "query" in caught.value.advice


@pytest.fixture(name="overrides")
def words_(good_hospitals, tiny_overrides, encoder_saver, tmp_path):
    folder = encoder_saver(tmp_path / "bert")
    return [
        *(
            override
            for override in tiny_overrides(good_hospitals)
            if not override.startswith("model.text") and override != "model/text=words"
        ),
        "model/text=lora",
        f"model.text.pretrained='{folder}'",
        "model.text.max_length=16",
        "model.text.lora.rank=2",
        "model/image=resnet18_lora",
        "model.image.lora.rank=2",
        "training.threads=1",
    ]


def test_bk_equals_the_oracle_with_and_without_a_missing_modality(overrides):
    config = config_from(overrides)
    cohort = prepare_dataset(config.data, "north")
    torch.manual_seed(1)
    model = build_model(config.model, config.data, 0).train()
    with torch.no_grad():  # B starts at zero, where A has no gradient
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    examples = build_examples(cohort, model.modalities, model.towers["text"].encoder.tokenize)
    rows = cohort.rows("train")[:6]
    batch = examples.batch(rows) | {"targets": examples.targets(rows)}
    for present in (True, False):
        if not present:
            batch["text_present"] = torch.tensor([True, False, True, False, True, False])
        found, truth = (
            sums(engine, model, _loss(config), batch, [0, 1, 1, 2, 3, 0], Clipping(0.5))
            for engine in (BookKeepingEngine, OracleEngine)
        )
        assert relative_error(found, truth) < 1e-5


def _loss(config):
    return lambda model, batch: compute_row_losses(model(batch), batch["targets"], config.data.task.kind)


@pytest.mark.parametrize("personalization", ["none", pytest.param("adapters", marks=pytest.mark.long), "ffa_lora"])
def test_a_private_federation_trains_and_only_what_is_trained_travels(overrides, personalization, tmp_path):
    run = RunDir(tmp_path / "run")
    private = ["privacy=patient", "privacy.min_cohort=5", "privacy.max_records_per_patient=2", "secagg=on"]
    all_overrides = [*overrides, *private, f"personalization={personalization}", "training.local_steps=1"]
    launch_run(RunSpec.compose(all_overrides, run))
    shared = load_file(run.path / "model.safetensors")
    base = build_model(config_from(all_overrides).model, config_from(all_overrides).data, 0)
    lora = {name for name in list_trained_arrays(base) if ".lora_" in name}
    expected = {"none": lora, "adapters": set(), "ffa_lora": {name for name in lora if ".lora_B." in name}}
    assert {name for name in shared if ".lora_" in name} == expected[personalization]
    assert not any(".base_layer." in name for name in shared)
    assert all(np.isfinite(array).all() for array in shared.values())
