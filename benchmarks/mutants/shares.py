"""Bugs in shares of the noise, planted at run time, and the part of the audit that must catch them.

`tests/clients/test_share_mutants.py` plants those that only a federation shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.mutants.subject import ROUNDS, Planter, clear_caches, make_subject
from fedhealth.config.schema import Sends
from fedhealth.errors import PrivacyError
from fedhealth.privacy import shared_release, statistics_release
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.auditing.release_checks import AuditFinding, check_fact, judge_checks
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.engines.step import sum_clipped_gradients
from fedhealth.privacy.mechanisms import noise_share
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.noised_counts import project_to_counts
from fedhealth.training import dpsgd_trainer
from fedhealth.training.audit_bench import AuditBench
from fedhealth.training.share_audit import HONEST, check_draws, check_shares

_round = NoiseSource.round_with_noise
_draw = noise_share.draw_shares
SETTINGS: dict[str, Any] = {"noise": "shared", "sample_rate": 0.5, "max_local_epsilon": 30}


def audit_shares(seed: int = 0, **settings: Any) -> tuple[AuditFinding, ...]:
    """Audit the shares of a hospital in a scratch folder."""
    clear_caches()
    trainer, task = make_subject(seed, **SETTINGS, **settings)
    task = replace(task, training=replace(task.training, sends=Sends.gradient, local_steps=1))
    with TemporaryDirectory() as folder:
        place = AccountingContext("audit", "hospital", Path(folder), 1, ROUNDS, shares=HONEST)
        bench, checks = AuditBench(trainer, task, place, None), [*check_draws()]
        try:
            for check in check_shares(bench, trainer.make_plan(task, place)):
                checks.append(check)
        except PrivacyError as fault:  # as in the audit: what the code raises is a finding
            checks.append(check_fact("private training runs under the audit", False, fault.problem))
        return judge_checks(checks)


def _change_rounding(change: Callable[..., np.ndarray]) -> Planter:
    return lambda: patch.object(NoiseSource, "round_with_noise", change)


def _clamp_after(self: NoiseSource, total: Any, std: float, step: float, bound: float) -> np.ndarray:
    steps = _round(self, total, std, step, bound)
    return np.clip(steps, -round(bound / step), round(bound / step))


def _cut_tails(self: NoiseSource, total: Any, std: float, step: float, bound: float) -> np.ndarray:
    middle = np.clip(np.asarray(total, np.float64).reshape(-1), -bound, bound) / step
    steps = _round(self, total, std, step, bound)
    return np.rint(np.clip(steps, middle - 3 * std / step, middle + 3 * std / step)).astype(np.int64)


def _round_first(self: NoiseSource, total: Any, std: float, step: float, bound: float) -> np.ndarray:
    return _round(self, np.rint(np.asarray(total) / step) * step, std, step, bound)


def _make_no_clamp(self: NoiseSource, total: Any, std: float, step: float, bound: float) -> np.ndarray:
    return _round(self, total, std, step, 1e12)


def _fix_key() -> Any:
    rekey = NoiseSource._rekey

    def fixed(self: NoiseSource) -> None:
        with patch.object(os, "urandom", bytes):
            rekey(self)

    return patch.object(NoiseSource, "_rekey", fixed)


def _share_by(sites: int) -> Planter:
    """Divide the variance among more sites than are honest."""

    def smaller(self: NoiseSource, total: Any, std: float, step: float, bound: float) -> np.ndarray:
        noise = _round(self, np.zeros(np.size(total)), std, step, bound) * (HONEST / sites) ** 0.5
        clamped = np.clip(np.asarray(total, np.float64).reshape(-1), -bound, bound)
        return np.rint(clamped / step + noise).astype(np.int64)

    return _change_rounding(smaller)


@contextmanager
def _keep_draws() -> Any:
    kept: dict[Any, Any] = {}

    def draw(values: Mapping[str, Any], shares: Mapping[str, Any]) -> Any:
        key = tuple(sorted((name, str(share)) for name, share in shares.items()))
        return kept.setdefault(key, _draw(values, shares))

    with patch.object(dpsgd_trainer, "draw_shares", draw), patch.object(shared_release, "draw_shares", draw):
        yield


def _project_at_site() -> Any:
    draw = shared_release.draw_shared_tables

    def project(tables: Any, shares: Any) -> Any:
        drawn = draw(tables, shares)
        return drawn | {name: np.rint(project_to_counts(drawn[name].astype(float))).astype(np.int64) for name in tables}

    return patch.object(statistics_release, "draw_shared_tables", project)


def _book_first_only() -> Any:
    book = PrivacyBudget.book

    def once(self: Any, ledger: Any, plan: Any, accounting: Any, event: Any) -> Any:
        found = [each for each in ledger.entries if (each.kind, each.purpose) == ("book", accounting.purpose)]
        return found[0] if found else book(self, ledger, plan, accounting, event)

    return patch.object(PrivacyBudget, "book", once)


def _sample_more() -> Any:
    build = dpsgd_trainer.DPSGDTrainer._build_sampler

    def double(self: Any, task: Any, plan: Any) -> Any:
        return build(self, task, replace(plan, sample_rate=min(1.0, 2 * plan.sample_rate)))

    return patch.object(dpsgd_trainer.DPSGDTrainer, "_build_sampler", double)


def _scale_sum() -> Any:
    def scale(engine: Any, parameters: Any, physical: Any) -> Any:
        return {name: 1.5 * total for name, total in sum_clipped_gradients(engine, parameters, physical).items()}

    return patch.object(dpsgd_trainer, "sum_clipped_gradients", scale)


@contextmanager
def _leave_out_tensors() -> Any:
    def draw(values: Mapping[str, Any], shares: Mapping[str, Any]) -> Any:
        drawn = _draw(values, shares)
        return drawn | {
            n: np.rint(v.numpy() / shares[n].step).astype(np.int64) for n, v in values.items() if v.dim() == 1
        }

    with patch.object(dpsgd_trainer, "draw_shares", draw):
        yield


SHARES: dict[str, Planter] = {
    "share by n": _share_by(5),
    "share by t": _share_by(4),
    "no noise in a share": _change_rounding(
        lambda self, total, std, step, bound: np.rint(
            np.clip(np.asarray(total).reshape(-1), -bound, bound) / step
        ).astype(np.int64)
    ),
    "half the variance of a share": _share_by(2 * HONEST),
    "one key for all shares": _fix_key,
    "clamped after the noise": _change_rounding(_clamp_after),
    "not clamped before the noise": _change_rounding(_make_no_clamp),
    "cut at three deviations": _change_rounding(_cut_tails),
    "rounded before the noise": _change_rounding(_round_first),
    "counts projected at the site": _project_at_site,
    "a kept draw of shares used again": _keep_draws,
    "one booking for all shares": _book_first_only,
    "patients drawn with twice the booked rate": _sample_more,
    "gradients summed with half as much again": _scale_sum,
    "vectors without their share": _leave_out_tensors,
}
