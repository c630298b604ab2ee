"""How the model learned, and how good it became."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedhealth.evaluation.metrics import ScoreTable, bin_centres
from fedhealth.report import charts
from fedhealth.report.charts import Series
from fedhealth.report.page import Cell, Chart, Section, Table
from fedhealth.report.wording import METRIC_NAMES, bracket, counted, interval, listed, number
from fedhealth.runs.record import Histogram, Run

_ROUNDS = "The AUROC is that of the model after so many rounds (0: untrained); the loss is the mean during each round."
_ONE_SCORE = "Scores and losses of single rounds stayed at the hospitals: each would have cost privacy."


def learning(run: Run) -> Section | None:
    """Show validation AUROC and training loss, round by round."""
    if not run.rounds:
        return None
    drawn = tuple(chart for chart in (_validation_chart(run), _loss_chart(run)) if chart)
    validation = run.evaluation.get("validation")
    lead = ""
    if validation and not math.isnan(validation.metrics["auroc"].value):
        score, studies = interval(validation.metrics["auroc"]), counted(validation.studies, "study")
        lead = f"The final model's pooled validation AUROC is {score} ({studies})."
    if not drawn and not lead:
        return None
    note = _ROUNDS if drawn else _ONE_SCORE
    return Section("learning", "How the model learned", lead, drawn, notes=(note,))


def quality(run: Run) -> Section | None:
    """ROC, calibration and the metrics of the final model on the test rows."""
    if run.test is None:
        return None
    counts = run.histograms.get("test")
    drawn = _quality_charts(run, counts) if counts else ()
    rows = tuple(
        (Cell(METRIC_NAMES[name]), Cell(number(estimate.value)), Cell(bracket(estimate) or "–"))
        for name, estimate in run.test.metrics.items()
    )
    table = Table("Pooled over all hospitals", ("Metric", "Value", "95\N{NO-BREAK SPACE}% interval"), rows)
    several = counts is not None and len(counts.positives) > 1
    macro = " Metrics are means over classes; calibration takes all classes together." if several else ""
    note = (
        "The curves come from score histograms summed over hospitals. Calibration: each dot is a bin of predicted "
        f"probability, its size the number of studies, its line a 95\N{NO-BREAK SPACE}% interval.{macro}"
    )
    lead = f"The final model on {counted(run.test.studies, 'labelled test study')} that no hospital trained on."
    return Section("quality", "How good the final model is", lead, drawn, (table,), (note, *_exactness(run)))


def _exactness(run: Run) -> tuple[str, ...]:
    """Say how far sums over hospitals can be from the scores of single studies."""
    known = {name: error for name, error in run.test.errors.items() if name in METRIC_NAMES} if run.test else {}
    if not known:
        return ()
    told = listed([f"the {METRIC_NAMES[name]} by {_bound(error)}" for name, error in known.items()])
    noise = " The noise of differential privacy comes on top." if run.protected("privacy") else ""
    return (f"A score from such histograms differs from that of the single studies at most so: {told}.{noise}",)


def _bound(error: float) -> str:
    """Round up: a bound must stay one."""
    return f"{math.ceil(error * 10000) / 10000:.4f}"


def _validation_chart(run: Run) -> Chart | None:
    """Draw each round's outcome: the model that comes in to round r has seen r - 1, the final evaluation all."""
    pooled = {each.number - 1: _auroc(each.pooled, "validation") for each in run.rounds}
    sites = _per_site(run, lambda own: _auroc(own, "validation"), shift=-1)
    if run.final:
        last = len(pooled)
        pooled[last] = _auroc(run.final.pooled, "validation")
        for answer in run.final.answers:
            if answer.own and answer.site in sites:
                sites[answer.site][last] = _auroc(answer.own, "validation")
    return _curves("Validation AUROC", "AUROC", "after rounds of training", pooled, sites)


def _loss_chart(run: Run) -> Chart | None:
    pooled = {each.number: _loss(each.pooled) for each in run.rounds}
    return _curves("Training loss", "loss", "during each round", pooled, _per_site(run, _loss))


def _curves(
    title: str, axis: str, when: str, pooled: Mapping[int, float], sites: Mapping[str, Mapping[int, float]]
) -> Chart | None:
    known = {place: value for place, value in pooled.items() if not math.isnan(value)}
    if len(known) < 2:  # private training tells of the final model only: that is in the text
        return None
    lines = [_series(name, values) for name, values in sites.items() if not all(map(math.isnan, values.values()))]
    first, last = min(known), max(known)
    said = f"{title} {when}, pooled: from {number(known[first])} to {number(known[last])}."
    return Chart(title, said, charts.curves(_series("all hospitals", pooled), lines, axis))


def _series(name: str, values: Mapping[int, float]) -> Series:
    places = sorted(values)
    return Series(name, places, [values[place] for place in places])


def _per_site(run: Run, read: Any, shift: int = 0) -> dict[str, dict[int, float]]:
    """Return read(own results) by site and place, where the lead may see them."""
    found: dict[str, dict[int, float]] = {site.name: {} for site in run.sites}
    for each in run.rounds:
        for answer in each.answers:
            if answer.own:
                found[answer.site][each.number + shift] = read(answer.own)
    return {site: values for site, values in found.items() if values}


def _auroc(results: Mapping[str, Any], split: str) -> float:
    return _float((results.get(split) or {}).get("auroc"))


def _loss(results: Mapping[str, Any]) -> float:
    return _float(results.get("loss"))


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _quality_charts(run: Run, counts: Histogram) -> tuple[Chart, ...]:
    centres = bin_centres(counts.positives.shape[1])
    names = _class_names(run, len(counts.positives))
    defined = {
        name: ScoreTable(centres, positives, negatives)
        for name, positives, negatives in zip(names, counts.positives, counts.negatives, strict=True)
        if positives.any() and negatives.any()
    }
    together = ScoreTable(centres, counts.positives.sum(axis=0), counts.negatives.sum(axis=0))
    drawn = []
    if defined:
        told = f"Receiver operating characteristic on the test rows: {', '.join(defined)}."
        drawn.append(Chart("ROC curve", told, charts.roc(defined)))
        told = "Precision against recall on the test rows; dotted is the prevalence, which guessing reaches."
        drawn.append(Chart("Precision and recall", told, charts.precision_recall(defined)))
    if np.any(together.positives + together.negatives):
        told = "Observed frequency against predicted probability on the test rows; the diagonal is perfect."
        drawn.append(Chart("Calibration", told, charts.calibration(together)))
    return tuple(drawn)


def _class_names(run: Run, columns: int) -> list[str]:
    """Return the name of each score column: the positive class, the classes, or the label columns."""
    classes = [str(name) for name in run.setting("data.task.classes", [])]
    labels = [str(name) for name in run.setting("data.columns.labels", [])]
    for names in (classes[-1:], classes, labels):
        if len(names) == columns:
            return names
    return [f"class {column}" for column in range(columns)]
