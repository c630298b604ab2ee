"""A training step reads no computed value: on a GPU the host would wait for it instead of preparing the next batch."""

import traceback
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fedhealth.config.schema import TaskKind
from fedhealth.data.examples import Examples
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.training.precision import checkpoint_activations
from fedhealth.training.private_batches import build_loss_fn, load_unit_batch
from fedhealth.training.trainer import _add_gradients
from tests.fedhealth.training.test_gradient_paths import make_task
from tests.fedhealth.training.test_physical_batches import make_text_task
from tests.fedhealth.training.test_precision import make_deep_task

WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "equal", "masked_select"}
INDEXING = {"index", "index_put", "index_put_"}  # they wait for the number of places where a mask is true
CPU = torch.device("cpu")
TASKS = {
    "image": lambda **changes: make_task(TaskKind.binary, **changes),
    "weighted": lambda **changes: make_task(TaskKind.multiclass, prevalence=[0.2, 0.3, 0.5], **changes),
    "parts": lambda **changes: make_task(TaskKind.multilabel, micro_batch_size=5, **changes),
    "checkpointed": lambda **changes: make_deep_task("group", activation_checkpointing=True, **changes),
    "text": lambda **changes: make_text_task(8, **changes),
}


class Waits(TorchDispatchMode):
    """Note the operations whose result the host must know before it can go on, with the line that calls them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        by_mask = name in INDEXING and any(getattr(i, "dtype", None) is torch.bool for i in args[1])
        if name in WAITING or by_mask:
            lines = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()]
            if not any("transformers" in line for line in lines):  # Hugging Face asks whether a mask hides anything
                self.found.append((name, lines))
        return func(*args, **(kwargs or {}))


def test_what_would_wait_is_noticed():
    x = torch.arange(4)
    with Waits() as waits:
        x[x > 1].sum().item()
        torch.unique(x)
        x.nonzero()
    assert [name for name, _ in waits.found] == ["index", "_local_scalar_dense", "_unique2", "nonzero"]


@pytest.mark.parametrize("name", TASKS)
def test_a_plain_step(monkeypatch, name):
    task = TASKS[name]()
    gathered = {len(rows): task.examples.batch(rows) for rows in (task.rows, task.rows[:5], task.rows[:2])}
    monkeypatch.setattr(Examples, "batch", lambda self, rows: gathered[len(rows)])  # it is on the host
    with checkpoint_activations(task.model, task.training), Waits() as waits:
        _add_gradients(task, task.model, task.rows, CPU)
    assert waits.found == []


@pytest.mark.parametrize("owners", [range(12), [row // 2 for row in range(12)]], ids=["one row each", "two rows"])
@pytest.mark.parametrize("name", TASKS)
def test_a_private_step(name, owners):
    task = TASKS[name]()
    task = replace(task, training=replace(task.training, micro_batch_size=None))
    batch = load_unit_batch(task.examples, range(12), CPU)
    engine = BookKeepingEngine(task.model, build_loss_fn(task.kind, task.training), Clipping(1.0))
    with checkpoint_activations(task.model, task.training), Waits() as waits:
        engine.accumulate(batch, [*owners])
    assert waits.found == []
