"""Evaluate the incoming model on the site's validation and test rows: score histograms, no scores of patients."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from flwr.app import RecordDict

from clients.merge import StateMerger, select_own_arrays
from clients.message import ParsedMessage
from clients.personalization.base import LocalRound
from clients.private_section import private_section
from clients.request_check import refuse_mismatches
from clients.site_setup import SiteSetup
from clients.transport.base import UploadAttempt
from fedhealth.evaluation.calibration import OWN_BINS
from fedhealth.evaluation.predictions import Predictions, count_scores, predict_studies
from fedhealth.evaluation.subgroups import assign_subgroups, count_scores_by_subgroup, releases_subgroups
from fedhealth.models.modality_keys import METHOD
from fedhealth.models.model_state import set_model_arrays
from fedhealth.protocol.messages import Directive
from fedhealth.runs.hospital_calibration import MODEL, PERSONAL, compute_model_digest
from fedhealth.runs.score_file import OWN_SCORES_FILE, ScoreFile, pack_score_file
from fedhealth.statistics.shapes import get_score_bins
from fedhealth.types import State
from fedhealth.utils.private_files import write_private_file

log = logging.getLogger("fedhealth.site")


class ModelEvaluator:
    """Evaluate models at one site.

    Args:
        setup: of the site.
        merger: of its arrays.

    """

    def __init__(self, setup: SiteSetup, merger: StateMerger) -> None:
        self.setup = setup
        self.merger = merger

    def evaluate(self, message: ParsedMessage) -> RecordDict:
        """Evaluate the final model on validation and test rows; store the site's personal model if it has one."""
        setup, directive = self.setup, message.directive
        with refuse_mismatches():
            incoming = setup.get_incoming_arrays(message)
            attempt = setup.accept_attempt(message, incoming)
        with private_section(setup.trainer):
            reply = attempt.load_cached_reply()
            return self._evaluate_and_reply(directive, incoming, attempt) if reply is None else reply

    def _evaluate_and_reply(self, directive: Directive, incoming: State, attempt: UploadAttempt) -> RecordDict:
        setup = self.setup
        setup.trainer.check_failures(setup.site.folder)
        local = self.merger.merge(directive, incoming, {}, attempt, is_final=True, purpose="evaluate")
        personal = self._build_personal_model(directive, local, incoming)
        self._save_own_scores(local, personal, incoming)
        statistics = self.count_scores(local, personal, "validation", "test") | self._count_scores_by_subgroup()
        task = replace(local.task, shares=attempt.get_noise_shares())
        released = setup.drop_small_splits(setup.trainer.release_statistics(statistics, task, local.accounting))
        return attempt.build_reply({}, released, attempt.recorder.identify({}, released))

    def _build_personal_model(self, directive: Directive, local: LocalRound, incoming: State) -> State:
        """Return the personal arrays and store the site's personal model.

        It never leaves the site. In a private run a failure here (a fine-tuning that diverges) therefore only costs
        the site its personal model: an error reply would tell the lead about un-noised values.
        """
        try:
            personal = self.setup.personalization.get_personal_arrays(local)
            self.merger.save_personal(directive, local, incoming, personal)
        except Exception:
            if not self.setup.trainer.is_private:
                raise
            log.exception("this site has no personal model")
            return {}
        return personal

    def _save_own_scores(self, local: LocalRound, personal: State, incoming: State) -> None:
        """Store exact score histograms of the model that this site would use; they never leave it.

        A failure costs the site its calibration only, as with the personal model.
        """
        setup = self.setup
        try:
            set_model_arrays(setup.model, local.merged | personal)
            counts = {split: count_scores(self._predict_split(split), OWN_BINS) for split in ("validation", "test")}
            shared = {name: array for name, array in incoming.items() if not name.startswith(METHOD)}
            is_personal = bool(select_own_arrays(local, incoming, personal))
            about = {MODEL: compute_model_digest(shared), PERSONAL: "yes" if is_personal else "no"}
            setup.site.arrays.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private_file(setup.site.arrays / OWN_SCORES_FILE, pack_score_file(ScoreFile(counts, about)))
        except Exception:
            if not setup.trainer.is_private:
                raise
            log.exception("this site has no scores for a calibration")

    def _predict_split(self, split: str) -> Predictions:
        """Return the predictions of the model as it is set for a split's rows that may be reported."""
        setup = self.setup
        rows = setup.trainer.select_scored_rows(setup.examples, setup.cohort.rows(split))
        return predict_studies(setup.model, setup.examples, rows, setup.task_kind)

    def count_scores(self, local: LocalRound, personal: State, *splits: str) -> dict[str, np.ndarray]:
        """Return score histograms of the site's personal model, or of the merged one if the personal may not report."""
        setup = self.setup
        is_hidden = setup.trainer.is_private and not setup.personalization.personal_model_is_dp
        set_model_arrays(setup.model, local.merged if is_hidden else local.merged | personal)
        histograms: dict[str, np.ndarray] = {}
        for split in splits:
            counts = count_scores(self._predict_split(split), *get_score_bins(setup.config))
            histograms |= {f"{split}.positives": counts.positives, f"{split}.negatives": counts.negatives}
        return histograms

    def _count_scores_by_subgroup(self) -> dict[str, np.ndarray]:
        """Return score histograms by patient subgroup, of the model that `count_scores` has set."""
        setup = self.setup
        if not releases_subgroups(setup.config):
            return {}
        rows = setup.trainer.select_scored_rows(setup.examples, setup.cohort.rows("test"))
        predictions = predict_studies(setup.model, setup.examples, rows, setup.task_kind)
        first = rows[np.unique(setup.examples.study[rows], return_index=True)[1]]
        subgroups = {name: of_row[first] for name, of_row in assign_subgroups(setup.cohort, setup.config).items()}
        return count_scores_by_subgroup(predictions, subgroups, setup.config)
