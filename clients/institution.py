"""One hospital in one run: the object that `clients.app` dispatches messages to.

No state survives in the process between two messages except caches: private arrays are in the site's own folder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from flwr.app import RecordDict

from clients.context import SiteContext
from clients.evaluate import ModelEvaluator
from clients.merge import StateMerger
from clients.message import ParsedMessage
from clients.private_section import private_section
from clients.request_check import compare_directive, refuse_mismatches
from clients.run_model import RunModel
from clients.site_setup import SiteSetup
from clients.train import RoundTrainer
from fedhealth.config.schema import Config, Purpose, Sends
from fedhealth.errors import PrivacyError
from fedhealth.models.modality_keys import SHARED, find_training_rows
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.protocol.messages import (
    ACCEPTANCE,
    DATA_KINDS,
    HANDSHAKE,
    TRAIN,
    Acceptance,
    Directive,
    PrivacyClaim,
    get_versions,
)
from fedhealth.site.decline_reasons import (
    COHORT_TOO_SMALL,
    CONFIG_MISMATCH,
    NO_PLAIN_GRADIENTS,
    NO_SHARED_NOISE,
    WORD_EMBEDDINGS_NOT_ALLOWED,
    redact_reason,
)
from fedhealth.site.egress_gate import ReleaseReceipt, ReplySchema, make_acceptance_schema
from fedhealth.statistics.descriptive import count_patients, suppress_small_counts
from fedhealth.statistics.shapes import get_statistic_shapes
from fedhealth.statistics.workload import measure_workload

log = logging.getLogger("fedhealth.site")
_FEWEST_SITES = 3  # of a run that shares noise


class Institution:
    """One hospital, for one configuration.

    Args:
        site: its name and folders.
        config: the configuration, already validated against the site's policy.
        digest: of the configuration.
        run_model: the model, which other sites of this process may use, too; None for one of its own.

    """

    def __init__(self, site: SiteContext, config: Config, digest: str, run_model: RunModel | None = None) -> None:
        self.setup = SiteSetup(site, config, digest, run_model)
        self.merger = StateMerger(self.setup)
        self.evaluator = ModelEvaluator(self.setup, self.merger)
        self.trainer = RoundTrainer(self.setup, self.merger, self.evaluator)

    def join(self, message: ParsedMessage) -> RecordDict:
        """Reply to the handshake: accept with the site's aggregation weights, or decline with reasons."""
        setup, directive = self.setup, message.directive
        if reasons := self._find_reasons_without_data(directive):
            return build_refusal(setup.site.name, reasons)
        with private_section(setup.trainer):
            if reasons := self._find_decline_reasons(directive):
                return build_refusal(setup.site.name, reasons)
            rows = setup.trainer.compute_aggregation_weights(self._count_announced_rows(directive))
            accounting = setup.get_accounting(directive, setup.config.purpose.value)
            task = setup.build_task(directive)
            noise = setup.trainer.compute_least_noise(task, accounting)
            privacy = _claim_privacy(setup.trainer.plan_task(task, accounting))
        run = setup.get_run_context(directive)
        weights, reply = setup.transport.announce(run, rows, noise)
        last = setup.transport.get_last_exchange(run)
        accepted = Acceptance(setup.site.name, (), weights, get_versions(), last, privacy=privacy)
        reply[ACCEPTANCE] = accepted.record()
        return reply

    def _find_reasons_without_data(self, directive: Directive) -> list[str]:
        """Return why this site cannot take part, from the configuration, the policy and the number of failed tasks."""
        setup = self.setup
        if directive.digest != setup.digest:
            return [CONFIG_MISMATCH]
        try:
            setup.trainer.check_failures(setup.site.folder)
        except PrivacyError as fault:
            log.warning("declined: %s", fault)
            return [fault.problem]
        if setup.trainer.shares_noise and not self._can_share_noise:
            return [NO_SHARED_NOISE]
        if setup.config.purpose is not Purpose.train:
            return []
        if setup.config.training.sends is Sends.gradient and not self._sends_plain_gradients:
            return [NO_PLAIN_GRADIENTS]
        return [WORD_EMBEDDINGS_NOT_ALLOWED] if setup.shares_word_rows else []

    @property
    def _can_share_noise(self) -> bool:
        """Whether nothing but a secure sum of enough sites would show this site's words."""
        config = self.setup.config
        is_whole = config.strategy.max_update_norm is None or config.purpose is not Purpose.train
        is_summed = not self.setup.transport.is_plaintext and is_whole
        return is_summed and len(config.data.sites) >= _FEWEST_SITES

    @property
    def _sends_plain_gradients(self) -> bool:
        """Whether one step of the incoming model is all that the site would send."""
        config = self.setup.config
        is_one_step = config.training.local_steps == 1 and not config.strategy.staleness
        is_update = self.setup.trainer.unit == "client"
        return is_one_step and not is_update and self.setup.personalization.sends_plain_gradients

    def _find_decline_reasons(self, directive: Directive) -> list[str]:
        """Return why this site cannot take part: whatever would otherwise fail after a round was booked, too."""
        setup = self.setup
        task, accounting = setup.build_task(directive), setup.get_accounting(directive, setup.config.purpose.value)
        reasons = setup.trainer.check_can_join(task, accounting)
        if not reasons:
            steps = setup.trainer.count_round_steps(task, accounting)
            reasons = setup.personalization.find_decline_reasons(steps)
        if setup.transport.is_plaintext and setup.is_small("train"):
            reasons = [*reasons, COHORT_TOO_SMALL]
        return reasons

    def plan_run(self) -> tuple[PrivacyBudget, PrivacyPlan] | None:
        """Return the site's privacy budget and the plan of the whole run; None without differential privacy.

        Raises:
            PrivacyError: the privacy target cannot be met within the site's policy, or too many tasks have failed.
            PrivateTaskError: the data cannot be read.

        """
        config, trainer = self.setup.config, self.setup.trainer
        if not trainer.is_private:
            return None
        trainer.check_failures(self.setup.site.folder)
        with private_section(trainer):
            work = measure_workload(config, self.setup.cohort)
        return trainer.plan_run(work, config.training, config.strategy.rounds, self.setup.noise_shares)

    def train(self, message: ParsedMessage) -> RecordDict:
        """Train one round and reply with the update and the statistics."""
        return self.trainer.train(message)

    def evaluate(self, message: ParsedMessage) -> RecordDict:
        """Evaluate the final model and reply with score histograms."""
        return self.evaluator.evaluate(message)

    def describe(self, message: ParsedMessage) -> RecordDict:
        """Reply with counts of patients in public bins; this needs no model."""
        setup, directive = self.setup, message.directive
        with refuse_mismatches():
            setup.check_message(message)
            attempt = setup.accept_attempt(message, {})
        with private_section(setup.trainer):
            if (reply := attempt.load_cached_reply()) is not None:
                return reply
            setup.trainer.check_failures(setup.site.folder)
            counts = suppress_small_counts(count_patients(setup.cohort, setup.config), self._min_count)
            task, accounting = setup.build_task(directive), setup.get_accounting(directive, "describe")
            task = replace(task, shares=attempt.get_noise_shares())
            released = setup.trainer.release_statistics(counts, task, accounting)
            return attempt.build_reply({}, released, attempt.recorder.identify({}, released))

    def handle_transport_message(self, message: ParsedMessage) -> RecordDict:
        """Reply to a message of the transport's own protocol."""
        setup, directive = self.setup, message.directive
        with refuse_mismatches():
            compare_directive(message.kind, directive, setup.config, setup.digest, setup.site.name)
            return setup.transport.handle_message(setup.get_run_context(directive), message)

    def get_reply_schema(self, message: ParsedMessage) -> ReplySchema:
        """Return which records the reply to a message may hold; the egress gate checks the reply against it."""
        setup, kind = self.setup, message.kind
        run, shapes = setup.get_run_context(message.directive), setup.get_reply_shapes(kind)
        if shapes.statistics:  # a refusal must not read the data
            shapes = replace(shapes, statistics=setup.drop_small_splits(shapes.statistics))
        schema = setup.transport.get_reply_schema(run, kind, shapes)
        return {**schema, ACCEPTANCE: make_acceptance_schema(setup.site.name)} if kind == HANDSHAKE else schema

    def get_data_schemas(self, directive: Directive) -> list[ReplySchema]:
        """Return the schemas of all replies of this run that are computed from patients' data."""
        kinds = get_statistic_shapes(self.setup.config)
        return [self.get_reply_schema(ParsedMessage(kind, directive, RecordDict())) for kind in kinds]

    def get_receipt(self, message: ParsedMessage, content: RecordDict) -> ReleaseReceipt | None:
        """Return what shows the egress gate that a private reply's words are recorded; None if it holds none."""
        setup, kind, directive = self.setup, message.kind, message.directive
        if not setup.trainer.is_private or kind not in DATA_KINDS:
            return None
        recorder = setup.get_recorder(directive, kind)
        release = setup.transport.identify_reply(setup.get_run_context(directive), content, recorder)
        is_empty = kind != TRAIN and not release.digest  # a final evaluation that releases no scores
        return None if is_empty else recorder.make_receipt(release)

    @property
    def _min_count(self) -> int:
        """The smallest count that the site reports, if the lead sees each site's own counts."""
        is_seen = self.setup.transport.is_plaintext and not self.setup.trainer.is_private
        return self.setup.config.evaluation.min_group if is_seen else 0

    def _count_announced_rows(self, directive: Directive) -> dict[str, int]:
        """Return the number of training rows by tower, without towers that too few patients have.

        A gradient is a mean over all that the site trains on, also in a tower that not all of them have.
        """
        setup, least = self.setup, self.setup.site.limits.min_patients
        cohort = setup.cohort
        rows = find_training_rows(cohort, setup.model.modalities)
        is_gradient = setup.config.training.sends is Sends.gradient
        units = setup.trainer.count_units(setup.build_task(directive)) if is_gradient else 0
        return {
            tower: units or setup.trainer.count_weighted_rows(cohort.patient[chosen])
            for tower, chosen in rows.items()
            if tower == SHARED or len(np.unique(cohort.patient[chosen])) >= least
        }


def _claim_privacy(plan: PrivacyPlan | None) -> PrivacyClaim:
    """Return what a site tells of its plan: public settings, and noise that follows from the coarse cohort."""
    return PrivacyClaim() if plan is None else PrivacyClaim(plan.epsilon, plan.delta, plan.noise_multiplier)


def build_refusal(site: str, reasons: Sequence[str]) -> RecordDict:
    """Return the reply of a site that declines; the reasons are redacted so that they reveal nothing about its data."""
    redacted = tuple(dict.fromkeys(map(redact_reason, reasons)))
    return RecordDict({ACCEPTANCE: Acceptance(site, redacted, {}, get_versions()).record()})
