"""Checks of the noise of batches without patients, where it can be read by itself, and of rounds that are repeated.

A round that is trained again after its release is a new release, with noise and a booking of its own. So is a round
that a restored machine trains with an empty ledger, though run, round and all generators that code can seed are as
before. Three of four batches of these fits are empty: a step of noise, which must look like any other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from fedhealth.privacy.auditing.noise_checks import check_matrix, check_noise_size, check_single_use, check_tails
from fedhealth.privacy.auditing.release_checks import AuditCheck, check_fact
from fedhealth.training.audit_bench import COHORT, AuditBench
from fedhealth.training.fit_recording import FitRecording
from fedhealth.training.release_audit import count_bookings

_EMPTY = 0.75  # share of the batches
_RATE = 1 - _EMPTY ** (1 / COHORT)
_WANTED = 20_000  # values of noise in the empty batches of a fit, for the law's tails
_FEWEST_STEPS, _MOST_STEPS = 11, 43  # of a fit
_RUN = "audit-empty"


@contextmanager
def hold_random_state() -> Iterator[Callable[[], None]]:
    """Yield a function that sets every generator that code can seed back to its present state."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def restart() -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])

    yield restart


def check_empty_batches(bench: AuditBench, noise_multiplier: float) -> Iterator[AuditCheck]:
    """Check that a batch without patients is a step of noise in every tensor, and that no noise returns."""
    trainer = bench.make_trainer(noise_multiplier=noise_multiplier, sample_rate=_RATE)
    std, rows = noise_multiplier * trainer.max_grad_norm, bench.select_cohort(COHORT)
    size = sum(p.numel() for p in bench.task.model.parameters() if p.requires_grad)
    steps = min(max(math.ceil(_WANTED / _EMPTY / size), _FEWEST_STEPS), _MOST_STEPS)
    fits: list[FitRecording] = []
    counts = []
    with hold_random_state() as restart:
        for round_, folder in ((1, "old"), (2, "old"), (2, "old"), (2, "new")):
            place = bench.accounting.folder / f"empty-{folder}"
            accounting = replace(bench.accounting, run=_RUN, round=round_, rounds=2, folder=place)
            restart()
            fits.append(bench.record_fit(trainer, bench.make_task(rows, steps), accounting, _RATE, std))
            trainer.record_release(accounting, f"words {len(fits)}")
            counts.append(count_bookings(trainer, accounting))
    yield check_fact("a released round that is trained again is booked again", counts == [1, 2, 3, 1], f"{counts}")
    yield from _check_noise(fits, std, {n: p.shape[-1] for n, p in bench.task.model.named_parameters() if p.dim() > 1})
    excess = max(fit.excess for fit in fits)
    yield check_fact("few patients move the model as many do", excess < 0.05, f"{excess:.3f} deviations more")


def _check_noise(fits: list[FitRecording], std: float, widths: dict[str, int]) -> Iterator[AuditCheck]:
    empty = [fit.list_empty_steps() for fit in fits]
    for name in fits[0].sums:
        parts = [fit.sums[name][steps] for fit, steps in zip(fits, empty, strict=True)]
        yield check_noise_size(f"empty batch, {name}", parts, std, known_mean=True)
        if name in widths and empty[0]:
            yield from check_matrix(name, parts[0][0], widths[name])
    joined = [_join_steps(fit, steps) for fit, steps in zip(fits, empty, strict=True)]
    yield from check_tails("empty batches", np.concatenate(joined) / std)
    yield check_single_use(joined)


def _join_steps(fit: FitRecording, steps: list[int]) -> np.ndarray:
    """Return the noise of some steps, one after the other."""
    return np.concatenate([sums[steps] for sums in fit.sums.values()], axis=1).ravel()
