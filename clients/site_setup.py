"""Everything a site builds from one run's configuration: data, model, trainer, personalization, transport.

The cached properties are caches only: a site can answer the next message in a new process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from clients.cohort_check import check_cohort_unchanged
from clients.context import RunContext, SiteContext
from clients.message import ParsedMessage
from clients.personalization.base import Personalization
from clients.release import ReleaseRecorder
from clients.request_check import compare_directive
from clients.run_model import InitialModel, RunModel
from clients.site_store import SiteStore
from clients.transport.base import ReplyShapes, Transport, UploadAttempt
from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config, Purpose, TaskKind
from fedhealth.data.augmentation import make_augmentation
from fedhealth.data.concat import concat_examples
from fedhealth.data.dataset import (
    SiteDataset,
    compute_dataset_digest,
    prepare_dataset,
    prepare_public_dataset,
)
from fedhealth.data.examples import Examples
from fedhealth.data.manifest import SPLITS
from fedhealth.errors import FederationError
from fedhealth.models.modality_keys import METHOD
from fedhealth.models.model_state import list_embedding_tables, view_model_arrays
from fedhealth.models.multimodal import MultimodalModel
from fedhealth.privacy.context import AccountingContext
from fedhealth.protocol.messages import DATA_KINDS, PURPOSES, SAME_RELEASE, TRAIN, Directive, digest_arrays
from fedhealth.statistics.shapes import compute_shared_sensitivity, get_statistic_shapes
from fedhealth.training.feature_cache import build_model_inputs
from fedhealth.training.schedule import compute_rate_factor
from fedhealth.training.trainer import Trainer, TrainingTask
from fedhealth.types import State
from fedhealth.utils.guarded_part import guard_part

T = TypeVar("T")

WORD_ADVICE = "Use privacy=patient, keep the tower local (personalization=fedtower), or set limits.word_embeddings."


class SiteSetup:
    """One site, set up for one configuration.

    Args:
        site: the site's name and folders.
        config: the configuration, already validated against the site's policy.
        digest: of the configuration.
        run_model: the model, which other sites of this process may use, too; None for one of its own.

    """

    def __init__(self, site: SiteContext, config: Config, digest: str, run_model: RunModel | None = None) -> None:
        self.site = site
        self.config = config
        self.digest = digest
        self.personalization = guard_part(instantiate(config.personalization), Personalization)
        self.trainer: Trainer = instantiate(config.privacy)
        self.transport: Transport = instantiate(config.secagg["site"])
        self._run_model = run_model or RunModel(config)

    @cached_property
    def cohort(self) -> SiteDataset:
        """The site's data; those of the run's first task."""
        cohort = prepare_dataset(self.config.data, self.site.name)
        check_cohort_unchanged(self.site.arrays, cohort)
        return cohort

    @cached_property
    def data_digest(self) -> str:
        """The digest of the site's data and of the public ones; nothing is decoded."""
        return compute_dataset_digest(self.config.data, self.site.name)

    @property
    def model(self) -> MultimodalModel:
        """The model; every task overwrites its trained arrays."""
        return self._run_model.model

    @cached_property
    def examples(self) -> Examples:
        """The site's data as model inputs, with the features of frozen towers."""
        return build_model_inputs(self.cohort, self.model)

    @cached_property
    def training_data(self) -> tuple[Examples, np.ndarray]:
        """The examples and the rows to train on: the site's training rows, and the public ones if there are any."""
        rows, public = self.cohort.rows("train"), prepare_public_dataset(self.config.data)
        augmentation = make_augmentation(self.config.training)
        own = build_model_inputs(self.cohort, self.model, keeps_images=True) if augmentation else self.examples
        if public is None:
            return replace(own, augmentation=augmentation), rows
        text = self.model.towers["text"].encoder if "text" in self.model.towers else None
        added = build_model_inputs(public, self.model, augmentation is not None)
        pooled = concat_examples([own, added], pad=getattr(text, "pad", 0))
        rows = np.concatenate([rows, public.rows("train") + len(self.examples.labels)])
        return replace(pooled, augmentation=augmentation), rows

    @property
    def initial(self) -> InitialModel:
        """The model as initialized from the configuration's seed."""
        return self._run_model.initial

    @cached_property
    def _initial_digest(self) -> bytes:
        return digest_arrays({}) if self.config.purpose is Purpose.describe else self.initial.digest

    @cached_property
    def shared_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all arrays that travel: the model's shared arrays and the method's own."""
        names = self.personalization.select_shared(self.model, sorted(self.initial.names))
        shared = {name: array.shape for name, array in view_model_arrays(self.model, names).items()}
        extra = self.personalization.get_extra_shapes(shared)
        return shared | {METHOD + name: shape for name, shape in extra.items()}

    @property
    def shares_word_rows(self) -> bool:
        """Whether updates would hold rows of an embedding that this site's policy keeps out of sums without noise.

        A row of a word that one site alone uses is that site's own change in every sum. With differential privacy it is
        noised like all others; without secure aggregation the lead sees everything in any case.
        """
        if self.site.limits.word_embeddings or self.trainer.is_private or self.transport.is_plaintext:
            return False
        return bool(list_embedding_tables(self.model) & set(self.shared_shapes))

    @property
    def task_kind(self) -> TaskKind:
        """The kind of prediction task."""
        return self.config.data.task.kind

    def get_run_context(self, directive: Directive) -> RunContext:
        """Return the site and the run of a directive."""
        return RunContext(directive.run, self.digest, self.site, self._data_name)

    @cached_property
    def _data_name(self) -> str:
        """The hospital's own name for the data; the path of its table at a virtual site."""
        return self.site.dataset or str(Path(self.config.data.root).resolve() / self.config.data.manifest)

    def get_store(self, directive: Directive) -> SiteStore:
        """Return the files that the site keeps for the run."""
        return SiteStore(directive.run, self.site.arrays, self.get_recorder(directive).is_recorded)

    def get_accounting(self, directive: Directive, purpose: str = "train") -> AccountingContext:
        """Return the run, round and purpose that privacy spending is booked under."""
        folder, rounds = self.site.folder, self.config.strategy.rounds
        run, number, exchange = directive.run, directive.round, directive.exchange
        place = (run, self.site.name, folder, number, rounds, purpose, exchange)
        return AccountingContext(*place, shares=self.noise_shares, study=self.site.study)

    @cached_property
    def noise_shares(self) -> int:
        """The most honest sites that the noise of a sum can count on; 1 where each site adds its own."""
        return self.transport.count_noise_shares(self.site) if self.trainer.shares_noise else 1

    def get_recorder(self, directive: Directive, kind: str = TRAIN) -> ReleaseRecorder:
        """Return the recorder of the releases of a kind of request."""
        return ReleaseRecorder(self.trainer, self.get_accounting(directive, PURPOSES[kind]))

    def accept_attempt(self, message: ParsedMessage, incoming: State) -> UploadAttempt:
        """Accept an attempt before any work is done for it; see `Transport.accept_attempt`."""
        run, recorder = self.get_run_context(message.directive), self.get_recorder(message.directive, message.kind)
        shapes = self.get_reply_shapes(message.kind)
        return self.transport.accept_attempt(run, message, incoming, recorder, shapes, self.digest_initial)

    def get_reply_shapes(self, kind: str) -> ReplyShapes:
        """Return the shapes of the reply to a kind of message, derived from the configuration; no data are read."""
        if kind not in DATA_KINDS:
            return ReplyShapes({}, {})
        statistics = get_statistic_shapes(self.config).get(kind, {})
        sensitivity = compute_shared_sensitivity(self.config, kind)
        return ReplyShapes(self.shared_shapes if kind == TRAIN else {}, statistics, sensitivity)

    def digest_initial(self) -> bytes:
        """Return the SHA-256 of the model's shared arrays before training; of no arrays if the run has no model."""
        return self._initial_digest

    def build_task(self, directive: Directive, is_final: bool = False) -> TrainingTask:
        """Return the training task of a round; what a site trains after the last one has the whole learning rate."""
        self._run_model.reset()  # first: features are computed with the model as it was built
        (examples, rows), training = self.training_data, self.config.training
        seed, rounds = derive_seed(self.config.seed, self.site.name, directive.round), self.config.strategy.rounds
        factor = compute_rate_factor(training.schedule, training.warmup, rounds, max(1, directive.round))
        task = TrainingTask(self.model, examples, rows, training, self.task_kind, seed)
        return task if is_final else replace(task, rate_factor=factor)

    def check_message(self, message: ParsedMessage) -> None:
        """Check that a message belongs to this run, its purpose and its configuration.

        Raises:
            FederationError: it does not.

        """
        if message.kind not in get_statistic_shapes(self.config):
            raise FederationError("This run has another purpose.", "Restart the run.")
        compare_directive(message.kind, message.directive, self.config, self.digest, self.site.name)
        if message.kind == TRAIN and self.shares_word_rows:
            raise FederationError("The rows of word embeddings may not leave this site without privacy.", WORD_ADVICE)

    def get_incoming_arrays(self, message: ParsedMessage) -> State:
        """Return the shared arrays of a message after checking message, shapes and types.

        Raises:
            FederationError: the message belongs to another run, or the arrays to another model.

        """
        self.check_message(message)
        found = {name: array.shape for name, array in message.arrays.items() if array.dtype == np.float32}
        if found != self.shared_shapes or len(found) < len(message.arrays):
            raise FederationError("The lead sent other arrays than this model shares.", SAME_RELEASE)
        return message.arrays

    def is_small(self, split: str) -> bool:
        """Return whether a split has patients, but fewer than may report on their own."""
        return 0 < len(np.unique(self.cohort.patient[self.cohort.rows(split)])) < self.site.limits.min_patients

    def drop_small_splits(self, statistics: Mapping[str, T]) -> dict[str, T]:
        """Return the statistics without those of small splits, if the lead sees each site's own statistics."""
        small = {split for split in SPLITS if self.transport.is_plaintext and self.is_small(split)}
        small |= {"groups"} if "test" in small else set()
        return {name: value for name, value in statistics.items() if name.partition(".")[0] not in small}


def derive_seed(seed: int, site: str, number: int) -> int:
    """Return the seed of one site in one round."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{site}|{number}".encode()).digest()[:7], "big")
