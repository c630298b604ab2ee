"""Report the pooled validation AUROC and loss per round, and the final model's test metrics.

The test AUROC comes from `RunRecord.test_result`, the validation AUROC from `RunRecord.evaluation` (final model) and
`RoundRecord.pooled` (each round); `fedhealth.runs.load_record` says which file each of them is read from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedhealth.evaluation.metrics import LOGIT_LIMIT, ScoreTable, compute_bin_centres
from fedhealth.evaluation.noised_scores import NOISED_LOGIT_LIMIT, NoisedCells, is_scorable
from fedhealth.privacy.mechanisms.noised_counts import project_to_counts
from fedhealth.report import charts, performance_charts
from fedhealth.report.calibrated_scores import build_calibrated_table, describe_thresholds
from fedhealth.report.charts import ChartSeries
from fedhealth.report.metric_table import build_metric_table
from fedhealth.report.noise_notes import LOST, describe_noise, format_studies
from fedhealth.report.noised_tables import build_noised_tables
from fedhealth.report.page import Chart, Section
from fedhealth.report.privacy import EXACT_NOTE
from fedhealth.report.wording import (
    METRIC_NAMES,
    format_estimate,
    format_number,
    join_words,
)
from fedhealth.runs.record import RunRecord
from fedhealth.runs.results import ScoreBinCounts

_ROUNDS = (
    "The AUROC is that of the model after the given number of rounds (0: untrained); the loss is the mean of a round."
)
_ONE_SCORE = "Scores and losses of single rounds did not leave the hospitals: each would have spent privacy budget."


def build_learning_section(run: RunRecord) -> Section | None:
    """Return the section with validation AUROC and training loss per round."""
    if not run.rounds:
        return None
    drawn = tuple(chart for chart in (_draw_validation_auroc(run), _draw_loss(run)) if chart)
    validation = run.evaluation.get("validation")
    lead = ""
    if validation and not math.isnan(validation.metrics["auroc"].value):
        score, studies = format_estimate(validation.metrics["auroc"]), format_studies(validation, "study")
        lead = f"The final model's pooled validation AUROC is {score} ({studies})."
    elif validation and validation.noise:
        lead = f"The final model's pooled validation AUROC is {LOST} ({format_studies(validation, 'study')})."
    if not drawn and not lead:
        return None
    note = _ROUNDS if drawn else _ONE_SCORE
    noise = describe_noise(validation) if validation else ()
    notes = (note, *_describe_selection(run), *_describe_early_end(run), *noise)
    return Section("learning", "How the model learned", lead, drawn, notes=notes)


def _describe_selection(run: RunRecord) -> tuple[str, ...]:
    """Return which round is exported, and by which rule."""
    if run.selected is None:
        return ()
    number, of = run.selected.number, run.completed_rounds
    exported = f"The exported model is that of round {number} of {of}"
    if run.selected.reason:
        return (f"{exported}. {run.selected.reason.rstrip('.')}.",)
    if number == of or math.isnan(run.selected.score):
        return (f"{exported}.",)
    return (
        f"{exported}, the best on the pooled validation rows. Its validation score is the highest of {of} and "
        "therefore too high, the more so the fewer patients it is from; its test score is not.",
    )


def _describe_early_end(run: RunRecord) -> tuple[str, ...]:
    """Return that training ended before the planned rounds, and which setting ended it."""
    planned, patience = run.get_setting("strategy.rounds"), run.get_setting("strategy.patience")
    if run.selected is None or not isinstance(planned, int) or not patience or run.completed_rounds >= planned:
        return ()
    return (
        f"Training ended before the {planned} planned rounds: {patience} rounds had no better validation score "
        f"(strategy.patience={patience}).",
    )


def build_quality_section(run: RunRecord) -> Section | None:
    """Return the section with the final model's test metrics, ROC, precision-recall and calibration curves."""
    if run.test_result is None:
        return None
    counts = run.histograms.get("test")
    drawn = _draw_quality_charts(run, counts) if counts else ()
    metrics, is_noised = run.test_result.metrics, run.test_result.noise is not None
    table = build_metric_table("Pooled over all hospitals", metrics, is_noised=is_noised)
    several = counts is not None and len(counts.positives) > 1
    macro = " Metrics are means over classes; the calibration curve takes all classes together." if several else ""
    note = (
        "The curves are computed from score histograms summed over hospitals. Calibration: each dot is a bin of "
        "predicted probability, its size shows the number of studies, its line a "
        f"95\N{NO-BREAK SPACE}% interval.{macro}"
    )
    studies = format_studies(run.test_result, "labelled test study")
    exact = (f"Metrics in the table: {EXACT_NOTE}",) if run.has_exact_test_result else ()
    lead = f"The final model on {studies} that no hospital trained on."
    calibrated, thresholds = build_calibrated_table(run.test_result), describe_thresholds(run.test_result.calibrated)
    tables = tuple(each for each in (table, calibrated, *build_noised_tables(run)) if each)
    notes = (*exact, note, *thresholds, *_describe_histogram_error(run), *describe_noise(run.test_result))
    return Section("quality", "How good the final model is", lead, drawn, tables, notes)


def _describe_histogram_error(run: RunRecord) -> tuple[str, ...]:
    """Return how much metrics from summed histograms can differ from metrics from the scores of single studies."""
    known = (
        {name: error for name, error in run.test_result.errors.items() if name in METRIC_NAMES}
        if run.test_result
        else {}
    )
    if not known:
        return ()
    bounds = join_words([f"the {METRIC_NAMES[name]} by {_format_upper_bound(error)}" for name, error in known.items()])
    return (f"Compared with exact scores of single studies, histograms change {bounds} at most.",)


def _format_upper_bound(error: float) -> str:
    """Return a bound with four decimals, rounded up so that it remains an upper bound."""
    return f"{math.ceil(error * 10000) / 10000:.4f}"


def _draw_validation_auroc(run: RunRecord) -> Chart | None:
    """Draw the AUROC after each round; round r evaluates the model after r - 1 rounds."""
    pooled = {each.number - 1: _get_auroc(each.pooled, "validation") for each in run.rounds}
    sites = _collect_by_site(run, lambda own: _get_auroc(own, "validation"), shift=-1)
    if run.final:
        for each in (*run.earlier, run.final):
            pooled[each.number] = _get_auroc(each.pooled, "validation")
            for reply in each.replies:
                if reply.own_results and reply.site in sites:
                    sites[reply.site][each.number] = _get_auroc(reply.own_results, "validation")
    return _draw_curves("Validation AUROC", "AUROC", "after rounds of training", pooled, sites)


def _draw_loss(run: RunRecord) -> Chart | None:
    pooled = {each.number: _get_loss(each.pooled) for each in run.rounds}
    return _draw_curves("Training loss", "loss", "during each round", pooled, _collect_by_site(run, _get_loss))


def _draw_curves(
    title: str, axis: str, when: str, pooled: Mapping[int, float], sites: Mapping[str, Mapping[int, float]]
) -> Chart | None:
    known = {place: value for place, value in pooled.items() if not math.isnan(value)}
    if len(known) < 2:  # with differential privacy only the final model is evaluated: the text gives its score
        return None
    lines = [_build_series(name, values) for name, values in sites.items() if not all(map(math.isnan, values.values()))]
    first, last = min(known), max(known)
    description = f"{title} {when}, pooled: from {format_number(known[first])} to {format_number(known[last])}."
    return Chart(title, description, charts.draw_curves(_build_series("all hospitals", pooled), lines, axis))


def _build_series(name: str, values: Mapping[int, float]) -> ChartSeries:
    places = sorted(values)
    return ChartSeries(name, places, [values[place] for place in places])


def _collect_by_site(run: RunRecord, read: Any, shift: int = 0) -> dict[str, dict[int, float]]:
    """Return `read(own results)` by site and round, where the lead may see them."""
    results: dict[str, dict[int, float]] = {site.name: {} for site in run.sites}
    for each in run.rounds:
        for reply in each.replies:
            if reply.own_results:
                results[reply.site][each.number + shift] = read(reply.own_results)
    return {site: values for site, values in results.items() if values}


def _get_auroc(results: Mapping[str, Any], split: str) -> float:
    return _to_float((results.get(split) or {}).get("auroc"))


def _get_loss(results: Mapping[str, Any]) -> float:
    return _to_float(results.get("loss"))


def _to_float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _draw_quality_charts(run: RunRecord, counts: ScoreBinCounts) -> tuple[Chart, ...]:
    defined, together, noise_std = _build_score_tables(run, counts)
    drawn = []
    if defined:
        description = f"Receiver operating characteristic on the test rows: {', '.join(defined)}."
        drawn.append(Chart("ROC curve", description, performance_charts.draw_roc(defined)))
        description = "Precision against recall on the test rows; the dotted line is the prevalence: random guessing."
        drawn.append(Chart("Precision and recall", description, performance_charts.draw_precision_recall(defined)))
    if np.any(together.positives + together.negatives):
        description = "Observed frequency against predicted probability on the test rows; the diagonal is perfect."
        if noise_std:
            description += " Intervals include the noise; what is lost in it is not drawn."
        drawn.append(Chart("Calibration", description, performance_charts.draw_calibration(together, noise_std)))
    return tuple(drawn)


def _build_score_tables(run: RunRecord, counts: ScoreBinCounts) -> tuple[dict[str, ScoreTable], ScoreTable, float]:
    """Return the table of each class that can be drawn, that of all classes together, and the noise in the latter.

    With noise, a class's counts are projected to possible ones and a class that is lost in the noise is left out; the
    table of all classes keeps the raw counts.
    """
    centres = compute_bin_centres(counts.positives.shape[1], NOISED_LOGIT_LIMIT if counts.noise_std else LOGIT_LIMIT)
    names = _list_score_names(run, len(counts.positives))
    defined = {}
    for name, positives, negatives in zip(names, counts.positives, counts.negatives, strict=True):
        if counts.noise_std and is_scorable(NoisedCells(positives, negatives, counts.noise_std)):
            defined[name] = ScoreTable(centres, project_to_counts(positives), project_to_counts(negatives))
        elif not counts.noise_std and positives.any() and negatives.any():
            defined[name] = ScoreTable(centres, positives, negatives)
    together = ScoreTable(centres, counts.positives.sum(axis=0), counts.negatives.sum(axis=0))
    return defined, together, counts.noise_std * math.sqrt(len(counts.positives))


def _list_score_names(run: RunRecord, columns: int) -> list[str]:
    """Return the name of each score column: the positive class, all classes, or the label columns."""
    classes = [str(name) for name in run.get_setting("data.task.classes", [])]
    labels = [str(name) for name in run.get_setting("data.columns.labels", [])]
    for names in (classes[-1:], classes, labels):
        if len(names) == columns:
            return names
    return [f"class {column}" for column in range(columns)]
