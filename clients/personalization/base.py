"""The interface of a personalization method: which arrays are shared, how a site trains, and its personal model.

In each round the site merges the incoming shared arrays with its private ones, the method trains the model, and the
change of the shared arrays becomes the client update. A method may have arrays of its own beside the model: `extra`
arrays travel both ways (the server's part is a `strategies.server_state.base.ServerMethodState`), and the arrays of
`client_state` never leave the site.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedhealth.config.schema import Sends
from fedhealth.models.model_method import ModelMethod
from fedhealth.models.model_state import get_model_arrays, set_model_arrays
from fedhealth.models.multimodal import MultimodalModel
from fedhealth.privacy.context import AccountingContext
from fedhealth.training.trainer import FitReport, GradientHook, PlainTrainer, Trainer, TrainingTask, fit_without_noise
from fedhealth.types import State


@dataclass(frozen=True)
class LocalRound:
    """One round of local work at a site.

    Attributes:
        task: the data, and the model, which holds `merged`.
        trainer: trains with the site's privacy guarantee.
        accounting: the run and round that privacy spending is booked under.
        shared: the shared arrays of the lead.
        merged: every trained array: the shared ones, and the site's private ones where it has them.
        extra: the method's own arrays of the lead.
        client_state: the method's own arrays of this site; they are stored after the round and loaded in the next.
        is_final: whether training is over and this is the evaluation of the final model.

    """

    task: TrainingTask
    trainer: Trainer
    accounting: AccountingContext
    shared: State
    merged: State
    extra: State = field(default_factory=dict)
    client_state: State = field(default_factory=dict)
    is_final: bool = False

    @property
    def model(self) -> MultimodalModel:
        """The model; it is trained in place."""
        return self.task.model

    def fit(self, gradient_hook: GradientHook | None = None, is_resumable: bool = True) -> FitReport:
        """Train the model in place with the site's privacy guarantee; call it once per round: it spends its budget.

        Args:
            gradient_hook: changes the gradients of each step; None for none.
            is_resumable: whether an interrupted round may resume; False if `gradient_hook` keeps state between steps.

        """
        task = replace(self.task, gradient_hook=gradient_hook, is_resumable=is_resumable, start=self.merged)
        return self.trainer.fit(task, self.accounting)

    def fit_copy(self, start: State, gradient_hook: GradientHook | None = None) -> State:
        """Train a personal copy of the model from `start` and return its arrays; restore the model afterwards.

        Arrays are float32 by name. No noise is added: in private training, nothing computed from the copy may leave
        the site, not even that it diverged. It then stays as it was.
        """
        before = get_model_arrays(self.model, sorted(start))
        set_model_arrays(self.model, start)
        fit = fit_without_noise if self.trainer.is_private else PlainTrainer().fit
        training = replace(self.task.training, sends=Sends.update)
        report = fit(replace(self.task, training=training, gradient_hook=gradient_hook))
        trained = get_model_arrays(self.model, sorted(start))
        set_model_arrays(self.model, before)
        return trained if math.isfinite(report.loss) else start

    def get_current_arrays(self) -> State:
        """Return every trained array of the model, float32 by name."""
        return get_model_arrays(self.model, sorted(self.merged))


@dataclass(frozen=True)
class TrainingResult:
    """The result of a round: the report, which stays at the site, and the change of each extra array, which is sent."""

    report: FitReport
    extra: State = field(default_factory=dict)


class Personalization(ModelMethod, Protocol):
    """A personalization method.

    Attributes:
        personal_model_is_dp: whether only the trainer trains the personal model. If not, a site with private training
            reports scores of the shared model and never those of its personal model.
        requires: capabilities that the configuration must provide, by the names in `fedhealth.config.capabilities`.
        sends_plain_gradients: whether what is sent is made of the gradients of the incoming model alone: every trained
            array is shared, and nothing that stays at the site or is added there feeds it. Only then may the lead have
            the optimizer (`training.sends=gradient`).
        keeps_arrays: whether arrays stay at the site from round to round. Those of old rounds are deleted, so only the
            newest rounds can then be evaluated again (`strategy.select`).

    """

    personal_model_is_dp: bool
    requires: tuple[str, ...]
    sends_plain_gradients: bool
    keeps_arrays: bool

    def train(self, local: LocalRound) -> TrainingResult:
        """Train for one round; afterwards the model's shared arrays are the site's contribution."""

    def find_decline_reasons(self, steps: int) -> list[str]:
        """Return why a site cannot train with this method, before anything is booked; empty if it can.

        Args:
            steps: optimizer steps of one round at this site.

        """

    def get_personal_arrays(self, local: LocalRound) -> State:
        """Return the arrays, float32 by name, in which the site's personal model differs from `local.merged`."""


class BasePersonalization:
    """Defaults for a method: all arrays are shared, and the merged model is the personal model.

    A method need not inherit from it; a method that changes one thing inherits the others.
    """

    personal_model_is_dp = True
    requires: tuple[str, ...] = ()
    sends_plain_gradients = False
    keeps_arrays = True

    def freeze(self, model: MultimodalModel) -> None:
        """Freeze nothing."""

    def select_shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return all trained arrays."""
        return list(trained)

    def get_extra_shapes(self, shared: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return no shapes: the method has no extra arrays."""
        return {}

    def train(self, local: LocalRound) -> TrainingResult:
        """Train the merged model."""
        return TrainingResult(local.fit())

    def find_decline_reasons(self, steps: int) -> list[str]:
        """Return no reasons: any number of steps will do."""
        return []

    def get_personal_arrays(self, local: LocalRound) -> State:
        """Return no arrays by name: the merged model is the site's personal model."""
        return {}
