"""How many rows private training computes at a time: from shapes and free memory, and never fewer than fit."""

import math
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch

from fedhealth.config.schema import DataConfig, ModelConfig, TaskKind
from fedhealth.data.augmentation import Augmentation
from fedhealth.data.examples import ModalitySource
from fedhealth.errors import PrivacyError
from fedhealth.models.multimodal import build_model
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.engines.base import get_trainable_parameters
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.opacus_hooks import OpacusEngine
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.training import physical_batches
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.physical_batches import MOST_ROWS, choose_physical_batch_size, count_unit_bytes
from fedhealth.training.private_batches import build_loss_fn, load_unit_batch
from fedhealth.utils.tensor_memory import PeakCounter
from tests.fedhealth.privacy.toys import SUMMED_GRAD
from tests.fedhealth.training.test_gradient_paths import SHIFTS, make_task
from tests.fedhealth.training.test_precision import make_deep_task

C = Clipping(1.0)
PLACE = AccountingContext("run", "north", Path(), 1, 2)
TEXT = {"_target_": "fedhealth.models.encoders.text.TextEncoder", "hidden": 16, "layers": 2, "buckets": 50}
FUSION = {"_target_": "fedhealth.models.fusion.ConcatFusion", "hidden": 4, "dropout": 0.0}


def make_text_task(length, heads=2, **changes):
    """Return a task over texts of one length."""
    model = build_model(
        ModelConfig(6, None, TEXT | {"heads": heads}, None, FUSION), DataConfig(name="t", root=".", sites=["a"]), 0
    )
    task = make_task(TaskKind.binary, **changes)
    words = np.random.default_rng(0).integers(1, 50, (12, length))
    source = ModalitySource(words, np.arange(12))
    return replace(task, model=model.train(), examples=replace(task.examples, sources={"text": source}))


def measure_step(task, rows, owners, engine=BookKeepingEngine):
    """Return the peak of a real step over rows, which may repeat, with the clipped sums there already."""
    model = task.model.train()
    batch = load_unit_batch(task.examples, rows, torch.device("cpu"))
    for p in get_trainable_parameters(model).values():
        setattr(p, SUMMED_GRAD, torch.zeros_like(p))
    with PeakCounter() as count:
        engine(model, build_loss_fn(task.kind, task.training), C).accumulate(batch, owners)
    for p in model.parameters():
        setattr(p, SUMMED_GRAD, None)
    return count.peak


@pytest.fixture
def free(monkeypatch):
    """Set the budget in bytes."""
    monkeypatch.setattr(physical_batches, "_bytes_of_unit", WeakKeyDictionary())

    def set_budget(value):
        monkeypatch.setattr(physical_batches, "_measure_budget", lambda training, device: value)

    return set_budget


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine])
@pytest.mark.parametrize("most_rows", [1, 3])
@pytest.mark.parametrize("make", [lambda: make_task(TaskKind.binary), lambda: make_text_task(20)])
def test_a_larger_batch_takes_no_more_per_row_than_was_counted(make, most_rows, engine):
    task = make()
    counted = count_unit_bytes(engine, task, C, most_rows)
    rows = [2, 3, 6, 7, 8, 11] * 10  # every modality is there
    for owners in (list(range(60)), [unit for unit in range(60 // most_rows) for _ in range(most_rows)]):
        peak = measure_step(task, rows, owners, engine)
        assert 0.2 * counted * 60 < peak <= counted * 60


def test_it_is_the_same_each_time_and_follows_no_value():
    task = make_task(TaskKind.binary)
    counted = count_unit_bytes(BookKeepingEngine, task, C, 2)
    image = task.examples.sources["image"]
    other = replace(task.examples, sources=task.examples.sources | {"image": replace(image, values=255 - image.values)})
    assert count_unit_bytes(BookKeepingEngine, task, C, 2) == counted
    assert count_unit_bytes(BookKeepingEngine, replace(task, examples=other), C, 2) == counted


def test_longer_texts_take_more():
    short, long = (count_unit_bytes(BookKeepingEngine, make_text_task(length), C, 1) for length in (8, 64))
    assert long > 4 * short


def test_checkpointed_activations_take_less():
    kept, dropped = (
        count_unit_bytes(BookKeepingEngine, make_deep_task("group", activation_checkpointing=is_on), C, 1)
        for is_on in (False, True)
    )
    assert dropped < 0.7 * kept


def test_counting_changes_neither_the_model_nor_random_numbers():
    task = make_deep_task("group", activation_checkpointing=True)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    p = next(task.model.parameters())
    total = torch.ones(1)
    setattr(p, SUMMED_GRAD, total)
    state = torch.get_rng_state()
    count_unit_bytes(BookKeepingEngine, task, C, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert getattr(p, SUMMED_GRAD) is total
    assert not any("forward" in vars(module) for module in task.model.modules())


def test_as_many_rows_as_fit_between_one_and_the_most(free):
    task = make_task(TaskKind.binary)
    each = count_unit_bytes(BookKeepingEngine, task, C, 2)
    weights = 4 * sum(p.nbytes for p in task.model.parameters())
    for budget, expected in ((0, 1), (weights + 10 * each, 10), (weights + 11 * each - 1, 10), (10**12, MOST_ROWS)):
        free(budget)
        assert choose_physical_batch_size(BookKeepingEngine, task, C, 2) == expected


def test_a_model_and_its_shapes_are_counted_once(free, monkeypatch):
    free(10**12)
    calls = []
    monkeypatch.setattr(physical_batches, "count_unit_bytes", lambda *given: calls.append(given) or 1)
    task = make_text_task(8)
    longer = replace(task, examples=make_text_task(9).examples)
    for each in (task, task, longer):
        choose_physical_batch_size(BookKeepingEngine, each, C, 1)
    next(iter(task.model.parameters())).requires_grad_(False)
    choose_physical_batch_size(BookKeepingEngine, task, C, 1)
    assert len(calls) == 2 * 3  # one unit, then several


def test_models_that_print_alike_are_counted_apart(free):
    free(20_000_000)
    tasks = [make_text_task(64, heads=heads) for heads in (1, 8)]
    assert str(tasks[0].model) == str(tasks[1].model)
    few, many = (choose_physical_batch_size(BookKeepingEngine, task, C, 1) for task in tasks)
    assert many < 0.5 * few


@pytest.mark.parametrize(("most_rows", "expected"), [(1, {1}), (3, {1, 3})])
def test_several_units_are_computed_only_if_one_shows_that_they_fit(free, monkeypatch, most_rows, expected):
    sizes, accumulate = set(), BookKeepingEngine.accumulate

    def look(engine, batch, patients):
        sizes.add(len(patients))
        return accumulate(engine, batch, patients)

    monkeypatch.setattr(BookKeepingEngine, "accumulate", look)
    task = make_task(TaskKind.binary)
    weights, one = (
        4 * sum(p.nbytes for p in task.model.parameters()),
        count_unit_bytes(BookKeepingEngine, task, C, most_rows, 1),
    )
    free(weights + 8 * one - 1)
    assert choose_physical_batch_size(BookKeepingEngine, task, C, most_rows) == 7
    assert sizes == expected
    free(weights + 8 * one)
    assert choose_physical_batch_size(BookKeepingEngine, task, C, most_rows) >= 8
    assert max(sizes) == 7 + most_rows


@pytest.mark.parametrize(
    ("limit_gb", "resident", "expected"),
    [(None, 0, 250_000), (1.0, 10**9 - 200_000, 100_000), (9.0, 0, 250_000), (math.inf, 0, 250_000)],
)
def test_a_quarter_of_what_is_free_or_half_of_what_the_limit_leaves(monkeypatch, limit_gb, resident, expected):
    monkeypatch.setattr(physical_batches, "measure_free_memory", lambda: 1_000_000)
    monkeypatch.setattr(physical_batches, "measure_resident_memory", lambda: resident)
    training = make_task(TaskKind.binary, memory_gb=limit_gb).training
    assert physical_batches._measure_budget(training, torch.device("cpu")) == expected


def test_half_of_what_a_gpu_has_free(monkeypatch):
    monkeypatch.setattr(physical_batches, "measure_free_gpu_memory", lambda device: 1_000_000)
    training = make_task(TaskKind.binary, memory_gb=0.001).training  # of the host
    assert physical_batches._measure_budget(training, torch.device("cuda")) == 500_000


@pytest.mark.parametrize("copies", [1, 3])
def test_the_sampler_gets_whole_units_with_their_copies(free, monkeypatch, copies):
    asked = []

    def choose(make_engine, task, clipping, most_rows):
        asked.append(most_rows)
        return 7

    monkeypatch.setattr("fedhealth.training.dpsgd_trainer.choose_physical_batch_size", choose)
    task = make_task(TaskKind.binary, Augmentation(SHIFTS, copies))
    trainer = DPSGDTrainer("t", 8.0, min_cohort=2, max_records_per_patient=4, sample_rate=1.0, noise_multiplier=1.0)
    plan = trainer.make_plan(task, PLACE)
    [*steps] = trainer._build_sampler(task, plan)
    assert asked == [2 * copies]  # no patient has more than two rows
    assert max(len(part.rows) for step in steps for part in step) == {1: 6, 3: 2}[copies]


def test_a_number_is_taken_as_it_is(monkeypatch):
    chooser = "fedhealth.training.dpsgd_trainer.choose_physical_batch_size"
    monkeypatch.setattr(chooser, lambda *given: pytest.fail("it was asked"))
    trainer = DPSGDTrainer("t", 8.0, min_cohort=2, max_physical_batch_size=4, sample_rate=1.0, noise_multiplier=1.0)
    task = make_task(TaskKind.binary)
    [*steps] = trainer._build_sampler(task, trainer.make_plan(task, PLACE))
    assert max(len(part.rows) for step in steps for part in step) == 4
    with pytest.raises(PrivacyError, match="max_physical_batch_size: 0 is below 1"):
        DPSGDTrainer("t", 8.0, max_physical_batch_size=0)
