"""Notices about the quality of the final model: gain over the baselines, and calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fedhealth.evaluation.metrics import PRIMARY_METRIC
from fedhealth.report.calibrated_scores import describe_benefit
from fedhealth.report.page import Notice
from fedhealth.report.verdict import Verdict, find_mean_local_gain, judge_gain, list_modality_gains
from fedhealth.report.wording import format_estimate, join_words
from fedhealth.runs.record import CENTRALISED, RunRecord

WHAT_TO_TRY = (
    "Try a frozen pretrained encoder for the weaker modality (model.text.pretrained, model/image=pretrained), "
    "model.modality_dropout=0.2, or leave it out."
)
CHANCE = 0.5  # the AUROC of guessing
LARGEST_ERROR = 0.1  # calibration error above which a notice is shown


def warn_no_gain_over_local(run: RunRecord) -> Iterator[Notice]:
    """Warn that federated training is worse than training alone, or shows no significant gain."""
    average = find_mean_local_gain(run.comparison) if run.comparison else None
    if run.comparison is None or average is None:
        return
    if judge_gain(average.gain) is Verdict.worse:
        yield Notice(
            "Federated training was worse than training alone",
            f"On average the change is {format_estimate(average.gain, True)}.",
        )
    elif judge_gain(average.gain) is not Verdict.better:
        yield Notice(
            "The gain over training alone is not significant",
            f"On average it is {format_estimate(average.gain, sign=True)}; it may be due to chance.",
        )


def warn_no_better_than_chance(run: RunRecord) -> Iterator[Notice]:
    """Warn that the model may rank patients no better than a coin."""
    result = run.test_result
    score = result.metrics[PRIMARY_METRIC] if result else None
    if score and score.low <= CHANCE:
        yield Notice(
            "The model is not shown to be better than chance",
            f"Its pooled test AUROC is {format_estimate(score)}; .5 is what guessing reaches. Do not use it: train "
            "longer, check the labels, or ask more hospitals.",
        )


def warn_hidden_by_noise(run: RunRecord) -> Iterator[Notice]:
    """Warn that the noise of differential privacy hides how good the model is."""
    result = run.test_result
    if result and result.noise and math.isnan(result.metrics[PRIMARY_METRIC].value):
        yield Notice(
            "The noise hides how good the model is",
            "Nobody knows from this run whether it helps patients. Ask more hospitals, allow a larger epsilon, or "
            "raise privacy.score_release_share.",
        )


def compare_with_centralised(run: RunRecord) -> Iterator[Notice]:
    """Report the difference between the federated model and a model trained on pooled data."""
    gain = run.comparison.gains.get(CENTRALISED) if run.comparison else None
    if gain is None:
        return
    amount = format_estimate(gain.gain, sign=True)
    match judge_gain(gain.gain):
        case Verdict.worse:
            text = f"Compared with one model trained on all data pooled in one place, the change is {amount}."
            yield Notice("Pooling the data would be better", text)
        case Verdict.unclear:
            text = f"The difference to one model trained on all data pooled in one place is {amount}."
            yield Notice("No clear difference to pooling the data", text, serious=False)
        case Verdict.better:
            text = (
                f"The shared model is better by {amount}. The pooled training used the same settings and number of "
                "steps and was not tuned further: it is a reference, not the best possible result of pooling."
            )
            yield Notice("Federated training was better than pooling the data here", text, serious=False)


def warn_poor_calibration(run: RunRecord) -> Iterator[Notice]:
    """Warn that the model's scores must not be read as probabilities."""
    result = run.test_result
    error = result.metrics.get("calibration_error") if result else None
    if result and error and error.low > LARGEST_ERROR:
        yield Notice(
            "The scores are not probabilities",
            f"Predicted probabilities are off by {format_estimate(error)} on average. The model ranks patients. "
            f"{describe_benefit(result.calibrated)}",
            serious=False,
        )


def warn_fusion_loses(run: RunRecord) -> Iterator[Notice]:
    """Warn that a single modality is significantly better than all of them together."""
    rivals = list_modality_gains(run.comparison) if run.comparison else []
    for gain in rivals:
        if judge_gain(gain.gain) is Verdict.worse:
            modality = gain.name.removesuffix(" only")
            yield Notice(
                f"{modality.capitalize()} alone is better than all modalities together",
                f"Compared with it, the fused model changes by {format_estimate(gain.gain, True)}. {WHAT_TO_TRY}",
            )


def warn_modalities_without_gain(run: RunRecord) -> Iterator[Notice]:
    """Warn of single modalities that reach more than all of them together; note those that may be as good."""
    rivals = list_modality_gains(run.comparison) if run.comparison else []
    open_cases = [gain for gain in rivals if judge_gain(gain.gain) in (Verdict.unclear, Verdict.undefined)]
    for is_ahead in (True, False):
        names = [each.name.removesuffix(" only") for each in open_cases if (each.gain.value < 0) is is_ahead]
        text = "The model that uses all modalities is not significantly better."
        if names and is_ahead:
            text = f"It reaches more here, which may be due to chance. {WHAT_TO_TRY}"
        if names:
            may = "may be better" if is_ahead else "may be enough"
            yield Notice(f"{join_words(names).capitalize()} alone {may}", text, serious=is_ahead)
