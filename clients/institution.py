"""An institution's part in a round: load -> merge -> score -> train -> select -> seal.

Nothing survives in the process between two tasks but caches: private arrays live in the site's own folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from flwr.app import RecordDict
from safetensors.numpy import load_file, save

from clients.personalization.contract import LocalTask, Personalization
from clients.upload.contract import Seat, Upload
from fedhealth.config.build import instantiate
from fedhealth.config.schema import Config, TaskKind
from fedhealth.data.batches import Examples
from fedhealth.data.cohort import Cohort, prepare
from fedhealth.errors import FederationError
from fedhealth.models.multimodal import MultimodalModel, build_model
from fedhealth.rundir import PRIVATE, write_atomic
from fedhealth.training.features import model_inputs
from fedhealth.training.loop import FitReport, Place, Task, Trainer, device_of, use_threads
from fedhealth.training.predictions import ScoreCounts, count, predict
from fedhealth.training.state import State, get_state, set_state, trained_names
from fedhealth.training.towers import tower_of, training_rows
from fedhealth.wire import (
    ACCEPTANCE,
    EVALUATE,
    GLOBAL,
    LOSS_UNIT,
    SAME_RELEASE,
    TRAIN,
    Acceptance,
    Directive,
    arrays_in,
    unpack,
    versions,
)


@dataclass(frozen=True)
class Site:
    """Where an institution is: its name and its private folder."""

    name: str
    folder: Path


class Institution:
    """One hospital, for one configuration.

    Args:
        site: its name and folder.
        config: what it was told to do, already screened.
        digest: of the configuration.

    """

    def __init__(self, site: Site, config: Config, digest: str) -> None:
        self.site = site
        self.config = config
        self.digest = digest
        self.personalization: Personalization = instantiate(config.personalization)
        self.trainer: Trainer = instantiate(config.privacy)
        self.upload: Upload = instantiate(config.secagg["site"])

    @cached_property
    def cohort(self) -> Cohort:
        """The site's rows."""
        return prepare(self.config.data, self.site.name)

    @cached_property
    def model(self) -> MultimodalModel:
        """The model, its trained arrays to be overwritten by every task."""
        use_threads(self.config.training)
        built = build_model(self.config.model, self.config.data, self.config.seed)
        return built.to(device_of(self.config.training.device))

    @cached_property
    def examples(self) -> Examples:
        """The rows as model inputs, frozen towers already applied."""
        return model_inputs(self.cohort, self.model)

    def accept(self, directive: Directive) -> RecordDict:
        """Answer the handshake."""
        reasons = [] if directive.digest == self.digest else ["the configuration differs from the lead's"]
        if not reasons:
            reasons = self.trainer.objections(self._task(directive), self._place(directive))
        rows = self.trainer.weights(training_rows(self.cohort, self.model.modalities))
        weights, extra = self.upload.join(self._seat(directive), rows)
        extra[ACCEPTANCE] = Acceptance(self.site.name, tuple(reasons), weights, versions()).record()
        return extra

    def fit(self, directive: Directive, content: RecordDict) -> RecordDict:
        """Score the incoming model, train, and answer with the update and the statistics."""
        incoming = self._incoming(directive, content)
        ticket = self.upload.accept(self._seat(directive), TRAIN, directive, incoming, content)
        if (again := ticket.kept()) is not None:
            return again
        local = {name for name in incoming if not ticket.sums(tower_of(name))}
        set_state(self.model, incoming | self._private(kept=local | (self._trained - set(incoming))))
        statistics = _counts("validation", self._score("validation"))
        task, place = self._task(directive), self._place(directive)
        report = self.personalization.train(LocalTask(task, self.trainer, place))
        self._keep(local | (self._trained - set(incoming)))
        released = self.trainer.release(statistics | _fit_statistics(report), task, place)
        after = get_state(self.model, [name for name in incoming if name not in local])
        update = {name: array - incoming[name] for name, array in after.items()}
        return ticket.seal(self.trainer.protect(update, task, place), released)

    def evaluate(self, directive: Directive, content: RecordDict) -> RecordDict:
        """Score the final model on validation and test rows."""
        incoming = self._incoming(directive, content)
        ticket = self.upload.accept(self._seat(directive), EVALUATE, directive, incoming, content)
        if (again := ticket.kept()) is not None:
            return again
        set_state(self.model, incoming | self._private(kept=self._trained))
        statistics = _counts("validation", self._score("validation")) | _counts("test", self._score("test"))
        return ticket.seal({}, self.trainer.release(statistics, self._task(directive), self._place(directive)))

    def answer(self, directive: Directive, kind: str, content: RecordDict) -> RecordDict:
        """Answer one of the upload's own messages."""
        return self.upload.answer(self._seat(directive), kind, content)

    def _task(self, directive: Directive) -> Task:
        rows = self.cohort.rows("train")
        seed = _seed(self.config.seed, self.site.name, directive.round)
        return Task(self.model, self.examples, rows, self.config.training, self._kind, seed)

    def _place(self, directive: Directive) -> Place:
        rounds = self.config.strategy.rounds
        return Place(directive.run, self.site.name, self.site.folder, directive.round, rounds)

    @property
    def _kind(self) -> TaskKind:
        return self.config.data.task.kind

    @cached_property
    def _trained(self) -> set[str]:
        return set(trained_names(self.model))

    def _seat(self, directive: Directive) -> Seat:
        return Seat(directive.run, self.site.name, self.site.folder, self.digest)

    def _incoming(self, directive: Directive, content: RecordDict) -> State:
        """Return the incoming shared arrays.

        Raises:
            FederationError: the task belongs to another run, or the arrays to another model.

        """
        if directive.digest != self.digest or self.site.name not in directive.cohort:
            raise FederationError("This task belongs to another run or cohort.", "Restart the run.")
        incoming = unpack(arrays_in(content, GLOBAL))
        if set(incoming) != set(self.personalization.shared(self.model, sorted(self._trained))):
            raise FederationError("The lead sent other arrays than this model shares.", SAME_RELEASE)
        return incoming

    def _private(self, kept: Set[str]) -> State:
        """Return the arrays among `kept` that this site holds in its own folder."""
        path = self.site.folder / PRIVATE
        return {n: a for n, a in load_file(path).items() if n in kept} if path.is_file() else {}

    def _score(self, split: str) -> ScoreCounts:
        rows = self.trainer.scored(self.examples, self.cohort.rows(split))
        predictions = predict(self.model, self.examples, rows, self._kind)
        return count(predictions, self.config.evaluation.bins)

    def _keep(self, names: Set[str]) -> None:
        """Keep what is trained here but not part of the sum in the site's folder."""
        if names:
            self.site.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(self.site.folder / PRIVATE, save(get_state(self.model, sorted(names))))


def _counts(split: str, counts: ScoreCounts) -> dict[str, np.ndarray]:
    return {f"{split}.positives": counts.positives, f"{split}.negatives": counts.negatives}


def _fit_statistics(report: FitReport) -> dict[str, np.ndarray]:
    loss = round(report.loss * report.examples * LOSS_UNIT)
    return {"train.examples": np.array([report.examples], np.int64), "train.loss": np.array([loss], np.int64)}


def _seed(seed: int, site: str, number: int) -> int:
    """Return a seed of its own for every site and round."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{site}|{number}".encode()).digest()[:7], "big")
