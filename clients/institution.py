"""An institution's part in a round: load -> merge -> score -> train -> select -> seal.

Nothing survives in the process between two tasks but caches: private arrays live in the site's own folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from flwr.app import RecordDict

from clients.personalization.base import LocalTask, Outcome, Personalization
from clients.site_store import Memory
from clients.transport.base import Seat, Ticket, Upload
from clients.update_clipping import bounded
from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config, TaskKind
from fedhealth.data.batches import Examples
from fedhealth.data.concat import pool_examples
from fedhealth.data.dataset import Cohort, prepare, prepare_public
from fedhealth.data.manifest import SPLITS
from fedhealth.errors import FederationError
from fedhealth.evaluation.predictions import count, predict
from fedhealth.evaluation.subgroups import count_groups, membership
from fedhealth.models.modality_keys import METHOD, SHARED, tower_of, training_rows
from fedhealth.models.model_state import get_state, set_state, trained_names
from fedhealth.models.multimodal import MultimodalModel, build_model
from fedhealth.privacy.accounting.budget import Allowance
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.context import Place
from fedhealth.protocol.array_codec import arrays_in, unpack
from fedhealth.protocol.messages import (
    ACCEPTANCE,
    DESCRIBE,
    EVALUATE,
    GLOBAL,
    HANDSHAKE,
    LOSS_UNIT,
    SAME_RELEASE,
    TRAIN,
    Acceptance,
    Directive,
    versions,
)
from fedhealth.site.decline_reasons import DIFFERS, SMALL, told
from fedhealth.site.egress_gate import Outgoing, acceptance_form
from fedhealth.statistics.descriptive import tables, without_small
from fedhealth.statistics.heterogeneity import drift, profile
from fedhealth.statistics.shapes import modalities_of, statistic_shapes
from fedhealth.training.feature_cache import model_inputs
from fedhealth.training.trainer import FitReport, Statistics, Task, Trainer, Workload, device_of, use_threads
from fedhealth.types import State

T = TypeVar("T")


@dataclass(frozen=True)
class Site:
    """Where an institution is.

    Attributes:
        name: of the site.
        folder: its private folder, outliving runs: privacy ledgers, approved members.
        keys: the folder of its identity key.
        arrays: the folder of what it keeps for one run.
        min_patients: a smaller cohort reports nothing on its own.

    """

    name: str
    folder: Path
    keys: Path
    arrays: Path
    min_patients: int = 1

    @classmethod
    def virtual(cls, name: str, folder: Path) -> Site:
        """Return a site of a run on one machine: everything lies in one folder."""
        return cls(name, folder, folder, folder)


class Institution:
    """One hospital, for one configuration.

    Args:
        site: where it is.
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
        self.personalization.freeze(built)
        return built.to(device_of(self.config.training.device))

    @cached_property
    def examples(self) -> Examples:
        """The rows as model inputs, frozen towers already applied."""
        return model_inputs(self.cohort, self.model)

    @cached_property
    def _training(self) -> tuple[Examples, np.ndarray]:
        """What is trained on: the site's own training rows, and the public ones where there are any."""
        rows, public = self.cohort.rows("train"), prepare_public(self.config.data)
        if public is None:
            return self.examples, rows
        text = self.model.towers["text"].encoder if "text" in self.model.towers else None
        pooled = pool_examples([self.examples, model_inputs(public, self.model)], pad=getattr(text, "pad", 0))
        return pooled, np.concatenate([rows, public.rows("train") + len(self.examples.labels)])

    @cached_property
    def _profile(self) -> dict[str, np.ndarray]:
        """In which public bins the site lies; facts about its patients."""
        return profile(self.cohort, self.config.data, self.model.modalities)

    def accept(self, directive: Directive) -> RecordDict:
        """Answer the handshake."""
        reasons = [] if directive.digest == self.digest else [DIFFERS]
        if not reasons:
            reasons = self.trainer.objections(self._task(directive), self._place(directive))
        if self.upload.alone and self._is_small("train"):
            reasons.append(SMALL)
        if reasons:
            return declined(self.site.name, reasons)
        weights, extra = self.upload.join(self._seat(directive), self.trainer.weights(self._told_rows()))
        last = self.upload.last_exchange(self._seat(directive))
        extra[ACCEPTANCE] = Acceptance(self.site.name, (), weights, versions(), last).record()
        return extra

    def foresee(self) -> tuple[Allowance, PrivacyPlan] | None:
        """Return what the whole run will spend here, and of what; None where it promises nothing.

        Raises:
            PrivacyError: its promise cannot be kept within the site's policy.

        """
        cohorts = [found for found in (self.cohort, prepare_public(self.config.data)) if found is not None]
        rows = [(cohort, cohort.rows("train")) for cohort in cohorts]
        patients = sum(len(np.unique(cohort.patient[chosen])) for cohort, chosen in rows)
        studies = sum(len(np.unique(cohort.study[chosen])) for cohort, chosen in rows)
        work = Workload(patients, studies, modalities_of(self.config))
        return self.trainer.foresee(work, self.config.training, self.config.strategy.rounds)

    def fit(self, directive: Directive, content: RecordDict) -> RecordDict:
        """Score the incoming model, train, and answer with the update and the statistics."""
        incoming = self._incoming(directive, TRAIN, content)
        ticket = self.upload.accept(self._seat(directive), TRAIN, directive, incoming, content)
        if (again := ticket.kept()) is not None:
            return again
        summed = {name: array for name, array in incoming.items() if ticket.sums(tower_of(name))}
        local = self._local(directive, incoming, summed)
        statistics = self._scores(local, self.personalization.personal(local), "validation")
        set_state(self.model, local.merged)
        outcome = self.personalization.train(local)
        self._keep(directive, local)
        statistics |= _fit_statistics(outcome.report) | self._profile
        released = self._reported(self.trainer.release(statistics, local.task, local.place))
        update = self.trainer.protect(self._update(directive, local, outcome), local.task, local.place)
        # the drift is read off what leaves in any case: no promise is touched
        return self._sealed(directive, ticket, update, released | drift(update))

    def evaluate(self, directive: Directive, content: RecordDict) -> RecordDict:
        """Score the final model on validation and test rows; keep the site's own model where it has one."""
        incoming = self._incoming(directive, EVALUATE, content)
        ticket = self.upload.accept(self._seat(directive), EVALUATE, directive, incoming, content)
        if (again := ticket.kept()) is not None:
            return again
        local = self._local(directive, incoming, {}, final=True)
        own = self.personalization.personal(local)
        # what came is the very same object: the rest is the site's own
        self._memory(directive).keep_own({n: a for n, a in (local.merged | own).items() if a is not incoming.get(n)})
        statistics = self._scores(local, own, "validation", "test") | self._groups()
        return ticket.seal({}, self._reported(self.trainer.release(statistics, local.task, local.place)))

    def describe(self, directive: Directive, content: RecordDict) -> RecordDict:
        """Count the patients in public bins; no model is involved."""
        self._check(directive, DESCRIBE)
        ticket = self.upload.accept(self._seat(directive), DESCRIBE, directive, {}, content)
        if (again := ticket.kept()) is not None:
            return again
        counts = without_small(tables(self.cohort, self.config), self._least_count)
        return ticket.seal({}, self.trainer.release(counts, self._task(directive), self._place(directive)))

    @property
    def _least_count(self) -> int:
        """The smallest count that may be told where the lead sees each site's own."""
        return self.config.evaluation.min_group if self.upload.alone and not self.trainer.private else 0

    def answer(self, directive: Directive, kind: str, content: RecordDict) -> RecordDict:
        """Answer one of the upload's own messages."""
        return self.upload.answer(self._seat(directive), kind, content)

    def outgoing(self, directive: Directive, kind: str) -> Outgoing:
        """Return what an answer to a message of this kind may hold: the gate compares."""
        statistics = self._reported(statistic_shapes(self.config).get(kind, {}))
        forms = self.upload.outgoing(self._seat(directive), kind, self._shapes, statistics)
        return {**forms, ACCEPTANCE: acceptance_form(self.site.name)} if kind == HANDSHAKE else forms

    def _told_rows(self) -> dict[str, int]:
        """Return training rows by tower; of a tower with few rows nothing is said."""
        rows = training_rows(self.cohort, self.model.modalities)
        return {tower: count for tower, count in rows.items() if tower == SHARED or count >= self.site.min_patients}

    def _is_small(self, split: str) -> bool:
        """Tell whether a split has patients, but fewer than may report on their own."""
        return 0 < len(np.unique(self.cohort.patient[self.cohort.rows(split)])) < self.site.min_patients

    def _reported(self, statistics: Mapping[str, T]) -> dict[str, T]:
        """Return the statistics without those that would show a small group on its own."""
        small = {split for split in SPLITS if self.upload.alone and self._is_small(split)}
        small |= {"groups"} if "test" in small else set()
        return {name: value for name, value in statistics.items() if name.partition(".")[0] not in small}

    def _task(self, directive: Directive) -> Task:
        examples, rows = self._training
        seed = _seed(self.config.seed, self.site.name, directive.round)
        return Task(self.model, examples, rows, self.config.training, self._kind, seed)

    def _place(self, directive: Directive) -> Place:
        rounds, released = self.config.strategy.rounds, self._memory(directive).released(directive.round)
        return Place(directive.run, self.site.name, self.site.folder, directive.round, rounds, released)

    @property
    def _kind(self) -> TaskKind:
        return self.config.data.task.kind

    def _seat(self, directive: Directive) -> Seat:
        return Seat(directive.run, self.site.name, self.site.folder, self.site.arrays, self.site.keys, self.digest)

    def _check(self, directive: Directive, kind: str) -> None:
        """Refuse a task of another run, cohort or purpose.

        Raises:
            FederationError: it is one.

        """
        if directive.digest != self.digest or self.site.name not in directive.cohort:
            raise FederationError("This task belongs to another run or cohort.", "Restart the run.")
        if kind not in statistic_shapes(self.config):
            raise FederationError("This run has another purpose.", "Restart the run.")

    def _incoming(self, directive: Directive, kind: str, content: RecordDict) -> State:
        """Return the incoming shared arrays.

        Raises:
            FederationError: the task belongs to another run, or the arrays to another model.

        """
        self._check(directive, kind)
        incoming = unpack(arrays_in(content, GLOBAL))
        if {name: array.shape for name, array in incoming.items()} != self._shapes:
            raise FederationError("The lead sent other arrays than this model shares.", SAME_RELEASE)
        return incoming

    @cached_property
    def _initial(self) -> State:
        """Every trained array as the configuration's seed gives it."""
        return get_state(self.model, trained_names(self.model))

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of everything that travels: the model's shared arrays and the method's own."""
        shared = {n: self._initial[n].shape for n in self.personalization.shared(self.model, sorted(self._initial))}
        extra = self.personalization.extras(shared)
        return shared | {METHOD + name: shape for name, shape in extra.items()}

    def _local(self, directive: Directive, incoming: State, summed: State, final: bool = False) -> LocalTask:
        """Merge what came with what is the site's own; what is not summed is the site's own as well."""
        stored = self._memory(directive).before(directive.round + (1 if final else 0))
        private = {name: array for name, array in stored.items() if name in self._initial and name not in summed}
        return LocalTask(
            self._task(directive),
            self.trainer,
            self._place(directive),
            shared={name: array for name, array in summed.items() if name in self._initial},
            merged=self._initial | {n: a for n, a in incoming.items() if n in self._initial} | private,
            extra={name.removeprefix(METHOD): array for name, array in summed.items() if name not in self._initial},
            memory={n.removeprefix(METHOD): a for n, a in stored.items() if n not in self._initial},
            final=final,
        )

    def _scores(self, local: LocalTask, own: State, *splits: str) -> dict[str, np.ndarray]:
        """Count the scores of the site's own model, or of the merged one where its own may not be told of."""
        hidden = self.trainer.private and not self.personalization.protected
        set_state(self.model, local.merged if hidden else local.merged | own)
        found: dict[str, np.ndarray] = {}
        for split in splits:
            rows = self.trainer.scored(self.examples, self.cohort.rows(split))
            counts = count(predict(self.model, self.examples, rows, self._kind), self.config.evaluation.bins)
            found |= {f"{split}.positives": counts.positives, f"{split}.negatives": counts.negatives}
        return found

    def _groups(self) -> dict[str, np.ndarray]:
        """Count the scores of the model as `_scores` left it, by group of patients."""
        if self.trainer.private or not self.config.evaluation.subgroups:
            return {}
        rows = self.cohort.rows("test")
        scored = predict(self.model, self.examples, rows, self._kind)
        first = rows[np.unique(self.examples.study[rows], return_index=True)[1]]
        places = {name: of_row[first] for name, of_row in membership(self.cohort, self.config).items()}
        return count_groups(scored, places, self.config)

    def _keep(self, directive: Directive, local: LocalTask) -> None:
        """Keep what is trained here but not part of the sum, and the method's memory, in the site's folder."""
        names = sorted(set(self._initial) - set(local.shared))
        memory = {METHOD + name: array for name, array in local.memory.items()}
        self._memory(directive).keep(directive.round, get_state(self.model, names) | memory)

    def _update(self, directive: Directive, local: LocalTask, outcome: Outcome) -> State:
        """Return what this round changed, with what an answer that came too late changed in the last one."""
        after = get_state(self.model, sorted(local.shared))
        update = {name: array - local.shared[name] for name, array in after.items()}
        update |= {METHOD + name: change for name, change in outcome.extra.items()}
        if staleness := self.config.strategy.staleness:
            memory = self._memory(directive)
            late = memory.late(directive.round - 1) if self.site.name in directive.missed else {}
            memory.keep_late(directive.round, update)
            update |= {n: update[n] + np.float32(staleness) * a for n, a in late.items() if n in update}
        return bounded(update, self.config.strategy.max_update_norm)

    def _sealed(self, directive: Directive, ticket: Ticket, update: State, statistics: Statistics) -> RecordDict:
        """Return the answer; from here on something of the round may have left."""
        answer = ticket.seal(update, statistics)
        self._memory(directive).release(directive.round)
        return answer

    def _memory(self, directive: Directive) -> Memory:
        return Memory(directive.run, self.site.arrays)


def declined(site: str, reasons: Sequence[str]) -> RecordDict:
    """Return the answer of a site that does not take part, in words that tell nothing of its data."""
    shown = tuple(dict.fromkeys(map(told, reasons)))
    return RecordDict({ACCEPTANCE: Acceptance(site, shown, {}, versions()).record()})


def _fit_statistics(report: FitReport) -> dict[str, np.ndarray]:
    loss = round(report.loss * report.examples * LOSS_UNIT)
    return {"train.examples": np.array([report.examples], np.int64), "train.loss": np.array([loss], np.int64)}


def _seed(seed: int, site: str, number: int) -> int:
    """Return a seed of its own for every site and round."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{site}|{number}".encode()).digest()[:7], "big")
