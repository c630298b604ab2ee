"""Train one round: evaluate the incoming model, train, store private arrays, reply with update and statistics."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from flwr.app import RecordDict

from clients.evaluate import ModelEvaluator
from clients.merge import RoundUpdate, StateMerger
from clients.message import ParsedMessage
from clients.personalization.base import LocalRound
from clients.private_section import private_section
from clients.request_check import refuse_mismatches
from clients.site_setup import SiteSetup
from clients.transport.base import UploadAttempt
from fedhealth.models.modality_keys import get_tower
from fedhealth.models.model_state import compute_l2_norm, set_model_arrays
from fedhealth.protocol.messages import LOSS_UNIT, Directive
from fedhealth.statistics.heterogeneity import compute_drift, compute_site_profile
from fedhealth.training.trainer import FitReport, Statistics
from fedhealth.types import State


class RoundTrainer:
    """Train rounds at one site.

    Args:
        setup: of the site.
        merger: of its arrays.
        evaluator: of its models.

    """

    def __init__(self, setup: SiteSetup, merger: StateMerger, evaluator: ModelEvaluator) -> None:
        self.setup = setup
        self.merger = merger
        self.evaluator = evaluator

    @cached_property
    def _site_profile(self) -> dict[str, np.ndarray]:
        """The public bins that the site's cohort falls into; facts about its patients."""
        return compute_site_profile(self.setup.cohort, self.setup.config.data, self.setup.model.modalities)

    def train(self, message: ParsedMessage) -> RecordDict:
        """Evaluate the incoming model, train, and reply with the update and the statistics."""
        setup, directive = self.setup, message.directive
        with refuse_mismatches():
            incoming = setup.get_incoming_arrays(message)
            attempt = setup.accept_attempt(message, incoming)
        with private_section(setup.trainer):
            reply = attempt.load_cached_reply()
            return self._train_and_reply(directive, incoming, attempt) if reply is None else reply

    def _train_and_reply(self, directive: Directive, incoming: State, attempt: UploadAttempt) -> RecordDict:
        """Train one round and reply; what the round leaves behind is stored before its words are released."""
        setup = self.setup
        setup.trainer.check_failures(setup.site.folder)
        aggregated = {name: array for name, array in incoming.items() if attempt.is_aggregated(get_tower(name))}
        local = self.merger.merge(directive, incoming, aggregated, attempt)
        scores = self._count_scores(local)
        local = replace(local, task=replace(local.task, shares=attempt.get_noise_shares()))
        result = setup.personalization.train(local)
        released = self._release_statistics(local, scores, result.report)
        update = self.merger.compute_update(directive, local, result)
        protected = setup.trainer.protect_update(update.total, local.task, local.accounting)
        statistics = released | self._compute_drift(update, protected)
        release = attempt.recorder.identify(protected, statistics, update.late_rounds)
        self.merger.save_round(directive, local, update, release.digest, attempt)
        return attempt.build_reply(protected, statistics, release)

    def _compute_drift(self, update: RoundUpdate, protected: State) -> Statistics:
        """Return the drift of the update as it leaves, which needs no privacy budget.

        A share of the noise is less than what the budget pays for: then there is no drift of a single site's update.
        """
        if self.setup.trainer.shares_noise:
            return {}
        return compute_drift(update.norm if protected is update.total else compute_l2_norm(protected))

    def _count_scores(self, local: LocalRound) -> Statistics:
        """Return the incoming model's validation scores, and leave the merged arrays in the model, to be trained.

        There are no scores in a private run, which releases only the final ones.
        """
        setup = self.setup
        personal = {} if setup.trainer.is_private else setup.personalization.get_personal_arrays(local)
        scores = {} if setup.trainer.is_private else self.evaluator.count_scores(local, personal, "validation")
        if personal or setup.trainer.is_private:
            set_model_arrays(setup.model, local.merged)
        return scores

    def _release_statistics(self, local: LocalRound, scores: Statistics, report: FitReport) -> Statistics:
        """Return the statistics that leave; in a private run nothing is computed that has no noise."""
        setup = self.setup
        if setup.trainer.is_private:
            return {}
        statistics = scores | _build_fit_statistics(report) | self._site_profile
        return setup.drop_small_splits(setup.trainer.release_statistics(statistics, local.task, local.accounting))


def _build_fit_statistics(report: FitReport) -> Statistics:
    loss = round(report.loss * report.examples * LOSS_UNIT)
    return {"train.examples": np.array([report.examples], np.int64), "train.loss": np.array([loss], np.int64)}
