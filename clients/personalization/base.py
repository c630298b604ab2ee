"""What the institution asks of a personalization method: what travels, how it is trained, and the site's own model.

A round at a site: the institution merges the incoming shared arrays with those that stay here, lets the method train,
and takes what the model then holds under the shared names as the site's contribution. Beside the model a method may
have arrays of its own: `extra` ones travel both ways (the lead's half is a `strategies.server_state.base.Companion`),
`memory` never leaves the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedhealth.models.model_state import get_state, set_state
from fedhealth.models.multimodal import MultimodalModel
from fedhealth.privacy.context import Place
from fedhealth.training.trainer import Correction, FitReport, PlainTrainer, Task, Trainer
from fedhealth.types import State


@dataclass(frozen=True)
class LocalTask:
    """One round's work at a site.

    Attributes:
        task: the data and the model, which holds `merged`.
        trainer: trains under the site's privacy promise.
        place: where and when.
        shared: the shared arrays as the lead sent them.
        merged: every trained array: the shared ones, and the site's own where it has them.
        extra: the method's arrays that came with the model.
        memory: the method's arrays of this site; what is in it afterwards is there again next round.
        final: whether training is over, and this is the evaluation of the last model.

    """

    task: Task
    trainer: Trainer
    place: Place
    shared: State
    merged: State
    extra: State = field(default_factory=dict)
    memory: State = field(default_factory=dict)
    final: bool = False

    @property
    def model(self) -> MultimodalModel:
        """The model that is trained in place."""
        return self.task.model

    def fit(self, correct: Correction | None = None, resumable: bool = True) -> FitReport:
        """Train the model in place under the site's privacy promise; call it once a round: it spends the round.

        A round that was interrupted goes on, unless `correct` remembers something from step to step.
        """
        return self.trainer.fit(replace(self.task, correct=correct, resumable=resumable), self.place)

    def fit_copy(self, start: State, correct: Correction | None = None) -> State:
        """Train a copy that never leaves and return its arrays; the model is left as it was.

        No noise is added: nothing computed from the copy may leave a site that trains privately.
        """
        kept = get_state(self.model, sorted(start))
        set_state(self.model, start)
        PlainTrainer().fit(replace(self.task, correct=correct))
        trained = get_state(self.model, sorted(start))
        set_state(self.model, kept)
        return trained

    def now(self) -> State:
        """Return every trained array as the model holds it."""
        return get_state(self.model, sorted(self.merged))


@dataclass(frozen=True)
class Outcome:
    """What a round of training gave: the report, which stays, and the change of each extra array, which travels."""

    report: FitReport
    extra: State = field(default_factory=dict)


class Personalization(Protocol):
    """One method.

    Attributes:
        protected: whether the site's own model is made by the trainer alone. If not, a site that trains privately
            reports scores of the shared model and keeps those of its own.

    """

    protected: bool

    def freeze(self, model: MultimodalModel) -> None:
        """Switch off, at the lead and at every site, what this method leaves as the seed made it.

        Raises:
            ConfigError: the model has nothing for this method to work on.

        """

    def shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return which of the trained arrays travel; the others stay in the site's private state.

        Raises:
            ConfigError: the model has nothing for this method to work on.

        """

    def extras(self, shared: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the method's arrays that travel, by name; a tower's are named `...NAME-OF-ARRAY`."""

    def train(self, local: LocalTask) -> Outcome:
        """Train for one round; afterwards the model holds the site's contribution under the shared names."""

    def personal(self, local: LocalTask) -> State:
        """Return the arrays in which the site's own model differs from `local.merged`."""


class Whole:
    """What most methods do where they do nothing special: everything is shared and scored as it is.

    A method is not bound to it; it saves those that change one thing from repeating the others.
    """

    protected = True

    def freeze(self, model: MultimodalModel) -> None:
        """Leave everything trained."""

    def shared(self, model: MultimodalModel, trained: Sequence[str]) -> list[str]:
        """Return everything."""
        return list(trained)

    def extras(self, shared: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return nothing."""
        return {}

    def train(self, local: LocalTask) -> Outcome:
        """Train the merged model."""
        return Outcome(local.fit())

    def personal(self, local: LocalTask) -> State:
        """Return nothing: the merged model is the site's."""
        return {}
