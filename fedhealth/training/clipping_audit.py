"""Checks of the clipping of every unit at once: the sum of a cohort where the bound is below nearly every gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from fedhealth.data.examples import Examples, ModalitySource
from fedhealth.privacy.auditing.independent_numbers import clip_gradient
from fedhealth.privacy.auditing.release_checks import AuditCheck, check_contribution, check_fact
from fedhealth.privacy.mechanisms.clipping import SMALLEST_BOUND
from fedhealth.training.audit_bench import COHORT, AuditBench

_STEPS, _FEW_STEPS = 8, 2
_LARGEST = 3e38  # of float32, nearly


def check_clipped_sum(bench: AuditBench) -> Iterator[AuditCheck]:
    """Check that the sum of a cohort is that of its clipped gradients, with a bound that clips nearly every unit."""
    rows = bench.select_cohort(COHORT)
    gradients = [bench.compute_gradient(unit) for unit in bench.list_units(rows)]
    lengths = [length for each in gradients if (length := _measure_length(each)) > 0]
    if not lengths:
        yield check_fact("some patient has a gradient", False, "all are zero")
        return
    trainer = bench.make_trainer(sample_rate=1.0, max_grad_norm=_choose_bound(lengths))
    towers = sorted(bench.task.model.modalities)
    clipped = [clip_gradient(each, trainer.clipping, trainer.max_grad_norm, towers) for each in gradients]
    accounting = replace(bench.accounting, run="audit-clipped", round=1, rounds=1)
    task = bench.make_task(rows, _STEPS, rests=True)
    std = trainer.make_plan(task, accounting).noise_multiplier * trainer.max_grad_norm
    sums = bench.record_fit(trainer, task, accounting, 1.0, std).sums
    found = np.concatenate([each.mean(0) for each in sums.values()])
    planned = np.concatenate([sum(each[name] for each in clipped) for name in sums])
    scale = sum(map(_measure_length, clipped))
    error = std / math.sqrt(_STEPS)
    yield check_contribution("the sum of all clipped contributions", found, planned, error, scale)


def _choose_bound(lengths: list[float]) -> float:
    """Return half the shortest length; of a trained model, some units may have a gradient that nearly vanishes."""
    return max(min(lengths) / 2, max(lengths) / 1000, SMALLEST_BOUND)


def check_impossible_values(bench: AuditBench) -> Iterator[AuditCheck]:
    """Check that a patient whose values overflow stops nothing, and adds no more than the bound."""
    rows, target = bench.select_cohort(COHORT), bench.choose_target()
    examples = _overflow_rows(bench.task.examples, target)
    if examples is None:  # images and words cannot overflow
        return
    trainer, towers = bench.make_trainer(sample_rate=1.0), sorted(bench.task.model.modalities)
    accounting = replace(bench.accounting, run="audit-impossible", round=1, rounds=1)
    task = replace(bench.make_task(rows, _FEW_STEPS, rests=True), examples=examples)
    std = trainer.make_plan(task, accounting).noise_multiplier * trainer.max_grad_norm
    sums = bench.record_fit(trainer, task, accounting, 1.0, std).sums
    others = [
        clip_gradient(bench.compute_gradient(unit), trainer.clipping, trainer.max_grad_norm, towers)
        for unit in bench.list_units(row for row in rows if row not in target)
    ]
    off = np.concatenate([each.mean(0) - sum(one[name] for one in others) for name, each in sums.items()])
    added, error = float(np.linalg.norm(off)), std / math.sqrt(_FEW_STEPS)
    most = 1.01 * trainer.max_grad_norm + error * (math.sqrt(len(off)) + 6)  # 6 deviations of a norm
    yield check_fact("values that overflow add no more than the bound", added <= most, f"norm {added:.3g}")


def _overflow_rows(examples: Examples, rows: list[int]) -> Examples | None:
    """Return examples with the largest numbers in some rows; None if no input is a floating-point number."""
    for name, source in examples.sources.items():
        chosen = source.index[rows][source.index[rows] >= 0]
        if np.issubdtype(source.values.dtype, np.floating) and len(chosen):
            values = np.array(source.values)
            values[chosen] = _LARGEST
            return examples.with_source(name, ModalitySource(values, source.index), replacing=name)
    return None


def _measure_length(gradient: Mapping[str, np.ndarray]) -> float:
    return math.sqrt(sum(float(part @ part) for part in gradient.values()))
