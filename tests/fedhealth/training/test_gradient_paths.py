"""Weighted, smoothed, augmented and accumulated gradients, against the oracle that looks at one sample at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhealth.config.schema import (
    DataConfig,
    ImageDataConfig,
    ModelConfig,
    Sends,
    TabularColumnConfig,
    TaskConfig,
    TaskKind,
    TrainingConfig,
)
from fedhealth.data.augmentation import Augmentation
from fedhealth.data.examples import Examples, ModalitySource
from fedhealth.models.multimodal import build_model
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.opacus_hooks import OpacusEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.privacy.mechanisms.poisson_sampler import PhysicalBatch
from fedhealth.training.losses import compute_row_losses
from fedhealth.training.private_batches import build_loss_fn, load_physical_batches
from fedhealth.training.trainer import PlainTrainer, TrainingTask
from tests.fedhealth.privacy.toys import relative_error, sums

ROWS = 12
SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
TASKS = {
    TaskKind.binary: (TaskConfig(), [0.2]),
    TaskKind.multiclass: (TaskConfig(TaskKind.multiclass, ["a", "b", "c"]), [0.1, 0.3, 0.6]),
    TaskKind.multilabel: (TaskConfig(TaskKind.multilabel, ["a", "b"]), [0.1, 0.7]),
}
SHIFTS = [{"name": "RandomAffine", "degrees": 20, "translate": [0.1, 0.1]}, {"name": "ColorJitter", "brightness": 0.3}]


def make_task(kind, augmentation=None, **changes):
    """A task over images and one variable, of six patients with two rows each; some values are missing."""
    about, _ = TASKS[kind]
    image = {"_target_": "fedhealth.models.encoders.image.ImageEncoder", "widths": [8, 8]}
    tabular = {"_target_": "fedhealth.models.encoders.tabular.TabularEncoder", "hidden": 4}
    fusion = {"_target_": "fedhealth.models.fusion.ConcatFusion", "hidden": 4, "dropout": 0.0}
    data = DataConfig(name="t", root=".", sites=["a"], task=about, tabular={"x": TabularColumnConfig()})
    data.image = ImageDataConfig(16, 1)
    model = build_model(ModelConfig(6, image, None, tabular, fusion), data, 0).train()
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (ROWS, 1, 16, 16)).astype(np.uint8)
    variables = draw.normal(size=(ROWS, 2)).astype(np.float32)
    rows = np.arange(ROWS)
    columns = 2 if kind is TaskKind.multilabel else 1
    labels = draw.integers(0, 3 if kind is TaskKind.multiclass else 2, (ROWS, columns)).astype(np.float32)
    labels[3, 0] = np.nan if kind is TaskKind.multilabel else labels[3, 0]
    sources = {
        "image": ModalitySource(pixels, np.where(rows % 5 == 0, -1, rows)),
        "tabular": ModalitySource(variables, np.where(rows % 4 == 1, -1, rows)),
    }
    examples = Examples(sources, labels, rows // 2, rows, augmentation=augmentation)
    settings = {"batch_size": ROWS, "local_steps": 1, "optimizer": SGD, "sends": Sends.gradient} | changes
    return TrainingTask(model, examples, rows, TrainingConfig(**settings), kind, 0)


def compute_single_gradients(task, batch):
    """Return the gradient of each row's loss, computed alone: {name: [rows, ...]}."""
    named = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
    found = {name: [] for name in named}
    for row in range(len(batch["targets"])):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        loss = compute_row_losses(task.model(one), one["targets"], task.kind, task.training).sum()
        parts = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for (name, p), part in zip(named.items(), parts, strict=True):
            found[name].append(torch.zeros_like(p) if part is None else part)
    return {name: torch.stack(parts) for name, parts in found.items()}


def take_batch(task, rows):
    rows = np.asarray(rows)
    return task.examples.batch(rows) | {"targets": task.examples.targets(rows)}


def settings_of(kind, path):
    return {
        "weighted": {"prevalence": TASKS[kind][1]},
        "smoothed": {"label_smoothing": 0.2},
        "weighted and smoothed": {"prevalence": TASKS[kind][1], "label_smoothing": 0.1},
        "accumulated": {"micro_batch_size": 5},
        "all": {"prevalence": TASKS[kind][1], "label_smoothing": 0.1, "micro_batch_size": 4},
    }[path]


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("path", ["weighted", "smoothed", "accumulated", "all"])
def test_a_plain_step_is_the_mean_of_single_gradients(kind, path):
    task = make_task(kind, **settings_of(kind, path))
    single = compute_single_gradients(task, take_batch(task, task.rows))
    report = PlainTrainer().fit(task)
    for name, direction in report.direction.items():
        np.testing.assert_allclose(-direction, single[name].mean(0).numpy(), rtol=1e-5, atol=1e-6)  # float32


@pytest.mark.parametrize("micro", [None, 5])
def test_a_plain_augmented_step_is_the_mean_over_all_copies(monkeypatch, micro):
    task = make_task(TaskKind.binary, Augmentation(SHIFTS, copies=3), micro_batch_size=micro)
    seen = []
    batch = Examples.batch
    monkeypatch.setattr(Examples, "batch", lambda self, rows: seen.append((rows, found := batch(self, rows))) or found)
    report = PlainTrainer().fit(task)
    plain = replace(task, examples=replace(task.examples, augmentation=None))
    rows = np.concatenate([each for each, _ in seen])
    assert len(rows) == 3 * ROWS
    total = {}
    for chosen, found in seen:
        single = compute_single_gradients(plain, found | {"targets": plain.examples.targets(chosen)})
        total = {name: total.get(name, 0) + part.sum(0) for name, part in single.items()}
    for name, direction in report.direction.items():
        np.testing.assert_allclose(-direction, total[name].numpy() / len(rows), atol=1e-6)


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine, OracleEngine])
@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("path", ["weighted", "smoothed"])
def test_a_private_step_clips_weighted_gradients_of_patients(engine, kind, path):
    task = make_task(kind, **settings_of(kind, path))
    owners = task.examples.patient.tolist()
    batch = take_batch(task, task.rows)
    expected = clip_by_hand(compute_single_gradients(task, batch), owners, torch.ones(ROWS))
    found = sums(engine, task.model, build_loss_fn(kind, task.training), batch, owners, Clipping(0.3, "flat"))
    assert relative_error(found, expected) < 1e-4


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine, OracleEngine])
def test_a_private_step_averages_copies_of_a_patient_before_clipping(engine, copies):
    task = make_task(TaskKind.binary, Augmentation(SHIFTS, copies))
    parts = [PhysicalBatch([0, 1, 4, 5], [0, 0, 2, 2]), PhysicalBatch([8, 9, 11], [4, 4, 5])]
    loaded = [*load_physical_batches(task.examples, parts, torch.device("cpu"))]
    rows = [row for part in parts for row in part.rows for _ in range(copies)]
    expected = {}
    for (batch, owners), part in zip(loaded, parts, strict=True):
        assert len(owners) == copies * len(part.rows)
        changed = {name: value for name, value in batch.items() if name != "weights"}
        weights = batch.get("weights", torch.ones(len(owners)))
        one = clip_by_hand(compute_single_gradients(task, changed), owners, weights)
        expected = {name: expected.get(name, 0) + value for name, value in one.items()}
    batches, units = [batch for batch, _ in loaded], [owner for _, owner in loaded]
    found = sums(engine, task.model, build_loss_fn(task.kind, task.training), batches, units, Clipping(0.3, "flat"))
    assert relative_error(found, expected) < 1e-4
    assert len(rows) == sum(map(len, units))


def clip_by_hand(single, owners, weights):
    """Return the sum over patients of their clipped gradients, from single rows with weights."""
    total = {}
    for patient in sorted(set(owners)):
        mine = [row for row, owner in enumerate(owners) if owner == patient]
        own = {name: sum(weights[row] * part[row] for row in mine) for name, part in single.items()}
        norm = torch.sqrt(sum(part.square().sum() for part in own.values()))
        factor = min(1.0, 0.3 / float(norm)) if norm else 0.0
        total = {name: total.get(name, 0) + factor * part for name, part in own.items()}
    return total


def test_copies_are_changed_one_by_one_and_missing_images_stay():
    change = Augmentation(SHIFTS, 2)
    image = torch.randint(0, 256, (1, 1, 16, 16), dtype=torch.uint8)
    found = change.change_images(image.repeat(4, 1, 1, 1), torch.tensor([True, True, False, True]))
    assert found.dtype == torch.uint8
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[2], image[0])
    deep = (image.to(torch.int32) * 257).to(torch.uint16)
    assert change.change_images(deep, torch.tensor([True])).dtype == torch.uint16


def test_classes_weigh_alike_under_the_stated_prevalence():
    training = TrainingConfig(prevalence=[0.1])
    logits, targets = torch.zeros(10, 1), torch.tensor([[1.0]] + [[0.0]] * 9)
    losses = compute_row_losses(logits, targets, TaskKind.binary, training)
    assert float(losses[0]) == pytest.approx(float(losses[1:].sum()))
    assert float(losses.sum()) == pytest.approx(float(compute_row_losses(logits, targets, TaskKind.binary).sum()))
