"""How many rows private training computes at a time, so that they fit into the memory that there is.

What a row takes is counted in one small step on synthetic rows of the site's shapes: activations, and what the engine
keeps of each layer. No value of a patient has a part in it, and no step has to fail first: several rows are computed
only if one row shows that they fit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedhealth.config.schema import TrainingConfig
from fedhealth.data.examples import Batch, Examples
from fedhealth.privacy.engines.base import get_trainable_parameters, select_rows
from fedhealth.privacy.engines.self_check import EngineFactory, restore_state
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.training.check_batch import make_check_batch
from fedhealth.training.precision import checkpoint_activations, use_channels_last
from fedhealth.training.private_batches import build_loss_fn
from fedhealth.training.trainer import TrainingTask
from fedhealth.utils.free_memory import measure_free_gpu_memory, measure_free_memory, measure_resident_memory
from fedhealth.utils.tensor_memory import PeakCounter

log = logging.getLogger("fedhealth.site")

MOST_ROWS = 256  # more at a time are not faster
_PROBE_UNITS = 8
_CPU_SHARE, _GPU_SHARE = 0.25, 0.5  # of what is free: other sites and programs may run beside this one
_LIMIT_SHARE = 0.5  # of what the task's own limit leaves
_COPIES = 4  # of the trained weights: clipped sum, noised gradient, and two moments of an optimizer

_bytes_of_unit: WeakKeyDictionary[nn.Module, dict[str, int]] = WeakKeyDictionary()  # of this process's models


def choose_physical_batch_size(
    make_engine: EngineFactory, task: TrainingTask, clipping: Clipping, most_rows: int
) -> int:
    """Return how many rows are computed at a time: as many as fit, between 1 and `MOST_ROWS`.

    Args:
        make_engine: of the run.
        task: of the run.
        clipping: its rule.
        most_rows: the most rows of a unit in a step, copies included.

    """
    device = next(task.model.parameters()).device
    free = _measure_budget(task.training, device) - _COPIES * _count_bytes(
        get_trainable_parameters(task.model).values()
    )
    needed = _count_once(make_engine, task, clipping, most_rows, 1)
    if needed * _PROBE_UNITS <= free:
        needed = _count_once(make_engine, task, clipping, most_rows, _PROBE_UNITS)
    chosen = max(1, min(MOST_ROWS, free // needed))
    log.info("private steps compute %d rows at a time, of %.3g MB each", chosen, needed / 1e6)
    return chosen


def _measure_budget(training: TrainingConfig, device: torch.device) -> int:
    if device.type == "cuda":
        return int(_GPU_SHARE * measure_free_gpu_memory(device))
    share = _CPU_SHARE * measure_free_memory()
    if training.memory_gb is not None:
        share = min(share, _LIMIT_SHARE * (training.memory_gb * 1e9 - measure_resident_memory()))
    return int(share)


def _count_once(make_engine: EngineFactory, task: TrainingTask, clipping: Clipping, most_rows: int, units: int) -> int:
    """Return the bytes of a unit; counted once for a model object, as no text tells all that a model computes."""
    known = _bytes_of_unit.setdefault(task.model, {})
    device, trainable = next(task.model.parameters()).device, tuple(get_trainable_parameters(task.model))
    about = (device, trainable, _list_shapes(task.examples), task.training, task.kind)
    key = repr((make_engine, clipping, most_rows, units, *about))
    if key not in known:
        known[key] = count_unit_bytes(make_engine, task, clipping, most_rows, units)
    return known[key]


def count_unit_bytes(
    make_engine: EngineFactory, task: TrainingTask, clipping: Clipping, most_rows: int, units: int = _PROBE_UNITS
) -> int:
    """Return an upper bound of what each row of a physical batch adds to the peak of the memory, in bytes.

    The peak of some units, divided by their number: what does not grow with the rows is counted with them, so more
    units never take more for each. Units of one row are counted, and such beside a unit with most rows, as engines pad
    the rows of all units to the most of any.

    Args:
        make_engine: of the run.
        task: of the run; its model is restored.
        clipping: its rule.
        most_rows: the most rows of a unit.
        units: that are computed at a time.

    """
    model, loss_fn = task.model.train(), build_loss_fn(task.kind, task.training)
    batch = _make_probe_batch(task, units + most_rows - 1)
    devices = [device] if (device := batch["targets"].device).type == "cuda" else []
    peak = 0
    with (
        restore_state(model),
        use_channels_last(model, task.training),
        checkpoint_activations(model, task.training),
        torch.random.fork_rng(devices=devices),
    ):
        engine = make_engine(model, loss_fn, clipping)
        for first in {1, most_rows}:
            owners = [0] * first + list(range(1, units))
            rows = select_rows(batch, range(len(owners)), len(batch["targets"]))
            for p in get_trainable_parameters(model).values():  # sums are there from the first step on
                p.summed_grad = torch.zeros_like(p, memory_format=torch.contiguous_format)  # type: ignore[attr-defined]
            with PeakCounter() as count:
                engine.accumulate(rows, owners)
            peak = max(peak, _count_bytes(rows.values()) + count.peak)
    return -(-peak // units)


def _make_probe_batch(task: TrainingTask, rows: int) -> Batch:
    """Return synthetic rows of the site's shapes; its longest text decides how much all texts take."""
    batch, _ = make_check_batch(task.model, task.examples, task.kind, 1, rows)
    if "text" in batch:
        length = task.examples.sources["text"].values.shape[1]
        batch["text"] = batch["text"][:, torch.arange(length) % batch["text"].shape[1]]
    return batch


def _list_shapes(examples: Examples) -> list[tuple[str, tuple[int, ...], str]]:
    return [(name, each.values.shape[1:], str(each.values.dtype)) for name, each in sorted(examples.sources.items())]


def _count_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(each.nbytes for each in tensors)
