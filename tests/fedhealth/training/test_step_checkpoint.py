"""A round that is interrupted goes on: bit for bit without noise, with no second booking with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhealth.config.schema import DataConfig, ModelConfig, TabularColumnConfig, TaskConfig, TaskKind, TrainingConfig
from fedhealth.data.examples import Examples, ModalitySource
from fedhealth.models.fusion import ConcatFusion
from fedhealth.models.multimodal import build_model
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.release import record_failure
from fedhealth.privacy.context import AccountingContext
from fedhealth.training import step_checkpoint
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.trainer import PlainTrainer, TrainingTask

STEPS = 12
OPTIMIZERS = {
    "adam": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.01},
    "momentum": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0.9},
    "sgd": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1},
}


class Killed(BaseException):
    """What stops a training in the middle."""


class Steps:
    """A gradient hook that counts its calls and stops the training before one of the steps."""

    def __init__(self, last=None):
        self.seen, self.last = [], last

    def __call__(self, step, parameters):
        if step == self.last:
            raise Killed
        self.seen.append(step)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(step_checkpoint, "EVERY_SECONDS", -1.0)


class RememberingFusion(ConcatFusion):
    """Its buffers grow, are made in training, and are replaced."""

    memory: torch.Tensor
    center: torch.Tensor | None
    batches: torch.Tensor

    def __init__(self, widths, outputs, hidden, dropout):
        super().__init__(widths, outputs, hidden, dropout)
        self.register_buffer("memory", torch.zeros(0))
        self.register_buffer("center", None)
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, features):
        self.batches = self.batches + 1
        if self.training:
            mean = features[0].detach().mean()
            self.memory = torch.cat([self.memory, mean[None]])
            self.center = mean if self.center is None else self.center
        return super().forward([each + self.memory.sum() + (self.center or 0) + self.batches for each in features])


def network(fusion=ConcatFusion):
    config = ModelConfig(
        dim=8,
        tabular={"_target_": "fedhealth.models.encoders.tabular.TabularEncoder", "hidden": 8},
        fusion={"_target_": f"{fusion.__module__}.{fusion.__name__}", "hidden": 8, "dropout": 0.5},
    )
    data = DataConfig(name="t", root=".", sites=["a"], task=TaskConfig(), tabular={"x": TabularColumnConfig()})
    return build_model(config, data, 0)


def task(gradient_hook, optimizer="adam", is_resumable=True, seed=0):
    values = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    rows = np.arange(40)
    examples = Examples({"tabular": ModalitySource(values, rows)}, (values[:, :1] > 0).astype(np.float32), rows, rows)
    training = TrainingConfig(batch_size=8, local_steps=STEPS, optimizer=OPTIMIZERS[optimizer])
    return TrainingTask(network(), examples, rows, training, TaskKind.binary, seed, gradient_hook, is_resumable)


def place(folder, number=1):
    return AccountingContext("run", "a", folder, number, 2)


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def interrupted(trainer, folder, at, **how):
    with pytest.raises(Killed):
        trainer.fit(task(Steps(at), **how), place(folder))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("at", [1, 7, STEPS - 1])
def test_plain_training_ends_bit_for_bit_as_if_nothing_had_happened(tmp_path, optimizer, at):
    whole, counted = task(Steps(), optimizer), Steps()
    expected = PlainTrainer().fit(whole, place(tmp_path / "calm"))
    interrupted(PlainTrainer(), tmp_path, at, optimizer=optimizer)
    again = task(counted, optimizer)
    report = PlainTrainer().fit(again, place(tmp_path))
    assert counted.seen == list(range(at, STEPS))
    assert torch.equal(weights(again.model), weights(whole.model))
    assert report == expected
    assert not list(tmp_path.glob("*.safetensors"))


def test_buffers_that_training_makes_or_replaces_are_restored(tmp_path):
    def remembering(hook):
        model = network(RememberingFusion).eval()
        with torch.inference_mode():  # as the evaluation before a round does
            model({"tabular": torch.zeros(1, 2), "tabular_present": torch.ones(1, dtype=torch.bool)})
        return replace(task(hook), model=model)

    whole, counted = remembering(Steps()), Steps()
    PlainTrainer().fit(whole, place(tmp_path / "calm"))
    with pytest.raises(Killed):
        PlainTrainer().fit(remembering(Steps(5)), place(tmp_path))
    again = remembering(counted)
    PlainTrainer().fit(again, place(tmp_path))
    assert counted.seen == list(range(5, STEPS))
    assert torch.equal(weights(again.model), weights(whole.model))
    assert torch.equal(again.model.fusion.memory, whole.model.fusion.memory)
    assert len(again.model.fusion.memory) == STEPS


@pytest.mark.parametrize("how", [{"seed": 1}, {"is_resumable": False}, {"optimizer": "adam"}])
def test_another_training_begins_at_its_beginning(tmp_path, how):
    interrupted(PlainTrainer(), tmp_path, 5)
    counted = Steps()
    same = how == {"optimizer": "adam"}
    PlainTrainer().fit(task(counted, **how), place(tmp_path))
    assert counted.seen == list(range(5 if same else 0, STEPS))


@pytest.mark.parametrize(("other", "first"), [(0.0, 5), (0.5, 0)])
def test_a_round_is_known_by_the_arrays_that_it_starts_from(tmp_path, other, first):
    def starting(hook, change):
        found = task(hook)
        return replace(found, start={"w": np.full(3, change, np.float32)})

    with pytest.raises(Killed):
        PlainTrainer().fit(starting(Steps(5), 0.0), place(tmp_path))
    counted = Steps()
    PlainTrainer().fit(starting(counted, other), place(tmp_path))
    assert counted.seen == list(range(first, STEPS))


def test_damaged_progress_is_left_alone_and_said(tmp_path, caplog):
    interrupted(PlainTrainer(), tmp_path, 5)
    (kept,) = tmp_path.glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-40])
    counted = Steps()
    PlainTrainer().fit(task(counted), place(tmp_path))
    assert counted.seen == list(range(STEPS))
    assert "starts again at its first step" in caplog.text


def test_private_training_goes_on_and_is_booked_once(tmp_path):
    trainer = DPSGDTrainer("cohort", epsilon=8.0, min_cohort=5)
    interrupted(trainer, tmp_path, 6)
    counted = Steps()
    trainer.fit(task(counted), place(tmp_path))
    assert counted.seen == list(range(6, STEPS))
    entries = verify_ledger(get_ledger_path(tmp_path, "cohort"))
    assert [(entry.kind, entry.round) for entry in entries] == [("book", 1), ("retry", 1)]


def test_private_training_under_a_new_booking_begins_at_its_beginning(tmp_path):
    trainer = DPSGDTrainer("cohort", epsilon=8.0, min_cohort=5)
    interrupted(trainer, tmp_path, 6)
    assert record_failure(tmp_path, "run") == 1
    counted = Steps()
    trainer.fit(task(counted), place(tmp_path))
    assert counted.seen == list(range(STEPS))
