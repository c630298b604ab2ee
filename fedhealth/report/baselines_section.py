"""The two questions a board asks: should we federate at all, and do the modalities help?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedhealth.report import charts
from fedhealth.report.page import Cell, Chart, Section, Table
from fedhealth.report.verdict import Verdict, alone_on_average, display_name, in_words, is_modality, modalities, verdict
from fedhealth.report.wording import METRIC_NAMES, bracket, interval, listed, number
from fedhealth.runs.record import ALONE_ON_AVERAGE, CENTRALISED, Comparison, Gain, Run

_PAIRED = (
    "All models are scored on the same test patients. Brackets are 95\N{NO-BREAK SPACE}% intervals from a bootstrap "
    "over patients; a gain is resampled as a pair, so its interval can exclude zero although the two models' intervals "
    "overlap. Several comparisons are shown without a correction for their number."
)
_WORK = (
    "A hospital alone trains as many steps as it did in the federation, the pooled model as many as all hospitals "
    "together."
)
_PRIVATE_WORK = (
    "Every alternative protects patients as the federation does, with a budget of its own as large. A hospital alone "
    "trains as many steps as it did in the federation; the pooled model as many over batches as large as all "
    "hospitals' together, since noise is added by step."
)
_UNPROTECTED_WORK = f"{_WORK} Both train without differential privacy: nothing of them would leave."


def comparison(run: Run) -> Section | None:
    """Set the federation beside training alone and pooling the data: should we federate at all?"""
    compared = run.comparison
    others = [gain for name, gain in compared.gains.items() if not is_modality(name)] if compared else []
    if compared is None or not others:
        return None
    others.sort(key=lambda gain: (gain.name == CENTRALISED, gain.name == ALONE_ON_AVERAGE))
    average = alone_on_average(compared)
    lead = _answer(compared, average) if average else f"Compared with all data in one place: {in_words(others[0])}."
    return _section(
        "federate",
        "Should we federate at all?",
        lead,
        ("Federated", "federating"),
        compared,
        others,
        (_PAIRED, _work(run)),
    )


def modality_comparison(run: Run) -> Section | None:
    """Do the modalities help?"""
    compared = run.comparison
    single = modalities(compared) if compared else []
    if compared is None or not single:
        return None
    better = [gain.name.removesuffix(" only") for gain in single if verdict(gain.gain) is Verdict.better]
    rest = [gain.name.removesuffix(" only") for gain in single if verdict(gain.gain) is not Verdict.better]
    if not rest:
        lead = f"Yes. All modalities together do better than {listed(better, 'or')} alone."
    elif better:
        better_than, no_gain = listed(better, "or"), listed(rest, "or")
        lead = f"In part. All together do better than {better_than} alone; over {no_gain} alone no gain is shown."
    else:
        lead = f"It is not shown: no clear gain over {listed(rest, 'or')} alone."
    note = "Each single-modality model is a federation of its own, with the same rounds and steps."
    return _section(
        "modalities", "Do the modalities help?", lead, ("All together", "using all"), compared, single, (note,)
    )


def _answer(compared: Comparison, average: Gain) -> str:
    metric, gain = METRIC_NAMES[compared.metric], interval(average.gain, sign=True)
    match verdict(average.gain):
        case Verdict.better:
            return f"Yes. Federating gains {gain} {metric} over training alone, on average."
        case Verdict.worse:
            return f"No. Federating changes the {metric} by {gain} against training alone, on average."
        case Verdict.unclear:
            return f"It is not shown. The gain over training alone is {gain} {metric} on average: it may be chance."
        case _:
            return f"It cannot be told: the {metric} is not defined on these test patients."


def _work(run: Run) -> str:
    """Say how the alternatives were trained."""
    if not run.protected("privacy"):
        return _WORK
    return _UNPROTECTED_WORK if run.setting("privacy.unit") is None else _PRIVATE_WORK


def _section(
    key: str,
    title: str,
    lead: str,
    reference: tuple[str, str],
    compared: Comparison,
    gains: Sequence[Gain],
    notes: tuple[str, ...],
) -> Section:
    metric = METRIC_NAMES[compared.metric]
    federated = compared.federated[compared.metric]
    drawn = [(reference[0], federated), *((display_name(gain.name), gain.alternative) for gain in gains)]
    drawn = [(name, estimate) for name, estimate in drawn if not math.isnan(estimate.value)]
    told = "; ".join(f"{name} {interval(estimate)}" for name, estimate in drawn) + "."
    caption = f"Pooled test {metric} with 95\N{NO-BREAK SPACE}% intervals"
    shown = () if math.isnan(federated.value) else (Chart(caption, told, charts.forest(drawn, metric)),)
    first = (Cell(reference[0]), Cell(number(federated.value), bracket(federated)), Cell("–"))
    rows = (first, *(_row(gain) for gain in gains))
    table = Table(f"Pooled test {metric}, and what {reference[1]} gains", ("Model", metric, "Gain"), rows)
    return Section(key, title, lead, shown, (table,), notes)


def _row(gain: Gain) -> tuple[Cell, ...]:
    return (
        Cell(display_name(gain.name), in_words(gain)),
        Cell(number(gain.alternative.value), bracket(gain.alternative)),
        Cell(number(gain.gain.value, sign=True), bracket(gain.gain, sign=True)),
    )
