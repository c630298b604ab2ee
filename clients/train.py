"""Train one round: evaluate the incoming model, train, store private arrays, reply with update and statistics."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from flwr.app import RecordDict

from clients.evaluate import ModelEvaluator
from clients.merge import StateMerger
from clients.message import ParsedMessage
from clients.site_setup import SiteSetup
from clients.transport.base import UploadAttempt
from fedhealth.models.modality_keys import get_tower
from fedhealth.models.model_state import set_model_arrays
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
        incoming = setup.get_incoming_arrays(message)
        attempt = setup.transport.accept_attempt(setup.get_run_context(directive), message, incoming)
        if (reply := attempt.load_cached_reply()) is not None:
            return reply
        aggregated = {name: array for name, array in incoming.items() if attempt.is_aggregated(get_tower(name))}
        local = self.merger.merge(directive, incoming, aggregated)
        statistics = self.evaluator.count_scores(local, setup.personalization.get_personal_arrays(local), "validation")
        set_model_arrays(setup.model, local.merged)
        result = setup.personalization.train(local)
        self.merger.save_private(directive, local)
        statistics |= _build_fit_statistics(result.report) | self._site_profile
        released = setup.drop_small_splits(setup.trainer.release_statistics(statistics, local.task, local.accounting))
        update = self.merger.compute_update(directive, local, result)
        protected = setup.trainer.protect_update(update, local.task, local.accounting)
        # the drift is computed from the update as it leaves, so it needs no privacy budget
        return self._build_reply(directive, attempt, protected, released | compute_drift(protected))

    def _build_reply(
        self, directive: Directive, attempt: UploadAttempt, update: State, statistics: Statistics
    ) -> RecordDict:
        """Return the reply and mark the round as released: from here on parts of it may have left the site."""
        reply = attempt.build_reply(update, statistics)
        self.setup.get_store(directive).mark_released(directive.round)
        return reply


def _build_fit_statistics(report: FitReport) -> dict[str, np.ndarray]:
    loss = round(report.loss * report.examples * LOSS_UNIT)
    return {"train.examples": np.array([report.examples], np.int64), "train.loss": np.array([loss], np.int64)}
