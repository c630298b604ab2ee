"""A hospital whose private training is audited with bugs planted in it; see `benchmarks.audit_mutants`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from fedhealth.privacy.accounting import accountant, budget
from fedhealth.privacy.auditing.release_checks import AuditFinding
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.engines.base import ClippedBatch, add_to_summed_grad, get_trainable_parameters, select_rows
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.training.client_dp_trainer import ClientDPTrainer
from fedhealth.training.dpsgd_plans import ENGINES
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.fit_audit import QUICK, AuditDepth, audit_fit
from fedhealth.training.trainer import TrainingTask
from fedhealth.training.update_audit import audit_updates

Planter = Callable[[], Any]
Bugs = dict[str, tuple[Planter, dict[str, Any]]]
"""Planter, and settings of the trainer, by name."""
PATIENTS, ROUNDS = 60, 4
OVERRIDES = [
    "data.root=x",
    "model.image=null",
    "model.text=null",
    "model.tabular.hidden=12",
    "model.dim=8",
    "model.fusion.hidden=8",
    "privacy=patient",
    "privacy.epsilon=4",
    "privacy.clipping=flat",
    "training.batch_size=12",
    "training.local_steps=4",
    "training.threads=1",
]


@lru_cache(maxsize=1)
def _compose_settings() -> Any:
    from omegaconf import OmegaConf

    from fedhealth.config.compose import compose_config

    return OmegaConf.to_object(compose_config(OVERRIDES))


def make_subject(seed: int = 0, **settings: Any) -> tuple[DPSGDTrainer, TrainingTask]:
    """Return a private trainer and a hospital of patients with one to three studies."""
    from fedhealth.config.instantiate import instantiate
    from fedhealth.data.examples import Examples, ModalitySource
    from fedhealth.data.tabular import count_features
    from fedhealth.models.multimodal import build_model

    config = _compose_settings()
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(PATIENTS), generator.integers(1, 4, PATIENTS))
    values = generator.standard_normal((len(patient), count_features(config.data.tabular))).astype(np.float32)
    labels = generator.integers(0, 2, (len(patient), 1)).astype(np.float32)
    rows = np.arange(len(patient))
    examples = Examples({"tabular": ModalitySource(values, rows)}, labels, patient, rows)
    model = build_model(config.model, config.data, seed)
    trainer = instantiate(config.privacy, **settings)
    return trainer, TrainingTask(model, examples, rows, config.training, config.data.task.kind, seed)


def audit_subject(seed: int = 0, depth: AuditDepth = QUICK, **settings: Any) -> tuple[AuditFinding, ...]:
    """Audit a hospital in a scratch folder, with plans that are made anew."""
    clear_caches()
    trainer, task = make_subject(seed, **settings)
    with TemporaryDirectory() as folder:
        return audit_fit(trainer, task, AccountingContext("audit", "hospital", Path(folder), 1, ROUNDS), depth)


def audit_client(seed: int = 0) -> tuple[AuditFinding, ...]:
    """Audit the client-level privacy of the same hospital."""
    clear_caches()
    _, task = make_subject(seed)
    trainer = ClientDPTrainer("demo", 4.0)
    with TemporaryDirectory() as folder:
        return audit_updates(trainer, task, AccountingContext("audit", "hospital", Path(folder), 1, ROUNDS))


def clear_caches() -> None:
    """Forget plans and epsilons: a wrong accountant and a right one must not find what the other has computed."""
    budget._make_cached_plan.cache_clear()
    accountant._compute_epsilon_cached.cache_clear()


def list_failures(findings: Iterable[AuditFinding]) -> list[str]:
    """Return the checks that failed, with what was found."""
    return [f"{each.name} ({each.detail})" for each in findings if not each.passed]


class OwnClipping(OracleEngine):
    """One patient at a time, with a rule of its own."""

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients of the patient at `place`."""
        raise NotImplementedError

    def group_rows(self, patients: Sequence[int]) -> list[list[int]]:
        """Return the rows that are clipped together."""
        return [[row for row, owner in enumerate(patients) if owner == each] for each in dict.fromkeys(patients)]

    def accumulate(self, batch: Any, patients: Sequence[int]) -> ClippedBatch:
        """Add the sum."""
        named = get_trainable_parameters(self._model)
        found = []
        for rows in self.group_rows(patients):
            loss = self._loss_fn(self._model, select_rows(batch, rows, len(patients))).sum()
            parts = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            found.append([torch.zeros_like(p) if g is None else g for p, g in zip(named.values(), parts, strict=True)])
        norms = [math.sqrt(sum(float(part.square().sum()) for part in each)) for each in found]
        for place, each in enumerate(found):
            for parameter, part in zip(named.values(), self.clip(each, norms, place), strict=True):
                add_to_summed_grad(parameter, part)
        return ClippedBatch(torch.zeros(0), torch.zeros(0))

    @property
    def bound(self) -> float:
        """The bound C."""
        return self._clipping.max_grad_norm


def use_engine(engine: type) -> Planter:
    """Return a planter of a wrong engine."""
    return lambda: patch.dict(ENGINES, bk=engine)
