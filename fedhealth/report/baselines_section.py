"""Compare the federated model with its baselines: is federated learning worth it, and does every modality help?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedhealth.report import charts
from fedhealth.report.page import Cell, Chart, ReportTable, Section
from fedhealth.report.site_gains import list_losers, summarize_losers
from fedhealth.report.verdict import (
    Verdict,
    describe_verdict,
    find_mean_local_gain,
    format_model_name,
    is_modality_model,
    judge_gain,
    list_modality_gains,
)
from fedhealth.report.wording import METRIC_NAMES, format_estimate, format_interval, format_number, join_words
from fedhealth.runs.record import ALONE_ON_AVERAGE, CENTRALISED, RunRecord
from fedhealth.runs.results import BaselineComparison, BaselineGain

_PAIRED = (
    "All models are scored on the same test patients. Brackets are 95\N{NO-BREAK SPACE}% intervals from a bootstrap "
    "over patients. Gains come from a paired bootstrap, so the interval of a gain can exclude zero although the "
    "intervals of the two models overlap. There is no correction for the number of comparisons."
)
_SAME_STEPS = (
    "A hospital alone trains for as many steps as in the federation; the pooled model trains for as many steps as all "
    "hospitals together."
)
_SAME_STEPS_WITH_PRIVACY = (
    "Every baseline has the same differential privacy as the federation, with a separate budget of the same size. A "
    "hospital alone trains for as many steps as in the federation; the pooled model trains for as many steps, on "
    "batches as large as those of all hospitals together, because noise is added in every step. Its learning rate is "
    "the run's, which was chosen for steps that are averaged over hospitals: a smaller one may suit it better."
)
_SAME_STEPS_UNPROTECTED = (
    f"{_SAME_STEPS} Both train without differential privacy, because nothing would leave the hospital."
)


def build_baselines_section(run: RunRecord) -> Section | None:
    """Return the comparison of the federated model with training alone and with pooling all data."""
    compared = run.comparison
    others = [gain for name, gain in compared.gains.items() if not is_modality_model(name)] if compared else []
    if compared is None or not others:
        return None
    others.sort(key=lambda gain: (gain.name == CENTRALISED, gain.name == ALONE_ON_AVERAGE))
    average = find_mean_local_gain(compared)
    lead = (
        f"{_describe_benefit(compared, average)} {summarize_losers(compared.sites)}".rstrip()
        if average
        else f"Compared with pooling all data in one place: {describe_verdict(others[0])}."
    )
    return _build_section(
        "federate",
        "Is federated training worth it?",
        lead,
        ("Federated", "federated training"),
        compared,
        others,
        (_PAIRED, _describe_baseline_training(run)),
    )


def build_modalities_section(run: RunRecord) -> Section | None:
    """Return the comparison of the federated model with models that use a single modality."""
    compared = run.comparison
    single = list_modality_gains(compared) if compared else []
    if compared is None or not single:
        return None
    better = [gain.name.removesuffix(" only") for gain in single if judge_gain(gain.gain) is Verdict.better]
    rest = [gain.name.removesuffix(" only") for gain in single if judge_gain(gain.gain) is not Verdict.better]
    if not rest:
        lead = f"Yes. All modalities together are better than {join_words(better, 'or')} alone."
    elif better:
        better_than, no_gain = join_words(better, "or"), join_words(rest, "or")
        lead = f"Partly. All together are better than {better_than} alone; there is no clear gain over {no_gain} alone."
    else:
        lead = f"Not shown. There is no clear gain over {join_words(rest, 'or')} alone."
    note = "Each single-modality model was trained in a separate federation with the same rounds and steps."
    return _build_section(
        "modalities", "Do the modalities help?", lead, ("All together", "using all"), compared, single, (note,)
    )


def _describe_benefit(compared: BaselineComparison, average: BaselineGain) -> str:
    metric, gain = METRIC_NAMES[compared.metric], format_estimate(average.gain, sign=True)
    match judge_gain(average.gain):
        case Verdict.better:
            said = "Partly" if list_losers(compared.sites) else "Yes"
            return f"{said}. Federated training gains {gain} {metric} over training alone, on average."
        case Verdict.worse:
            return f"No. Federated training changes the {metric} by {gain} compared with training alone, on average."
        case Verdict.unclear:
            return f"Not shown. The gain over training alone is {gain} {metric} on average; it may be due to chance."
        case _:
            return f"Unknown: the {metric} is not defined on these test patients."


def _describe_baseline_training(run: RunRecord) -> str:
    """Describe how the baselines were trained."""
    if not run.is_private:
        return _SAME_STEPS
    return _SAME_STEPS_UNPROTECTED if run.get_setting("privacy.unit") is None else _SAME_STEPS_WITH_PRIVACY


def _build_section(
    key: str,
    title: str,
    lead: str,
    reference: tuple[str, str],
    compared: BaselineComparison,
    gains: Sequence[BaselineGain],
    notes: tuple[str, ...],
) -> Section:
    metric = METRIC_NAMES[compared.metric]
    federated = compared.federated[compared.metric]
    drawn = [(reference[0], federated), *((format_model_name(gain.name), gain.alternative) for gain in gains)]
    drawn = [(name, estimate) for name, estimate in drawn if not math.isnan(estimate.value)]
    description = "; ".join(f"{name} {format_estimate(estimate)}" for name, estimate in drawn) + "."
    caption = f"Pooled test {metric} with 95\N{NO-BREAK SPACE}% intervals"
    shown = (
        () if math.isnan(federated.value) else (Chart(caption, description, charts.draw_forest_plot(drawn, metric)),)
    )
    first = (Cell(reference[0]), Cell(format_number(federated.value), format_interval(federated)), Cell("–"))
    rows = (first, *(_build_row(gain) for gain in gains))
    table = ReportTable(f"Pooled test {metric}, and the gain of {reference[1]}", ("Model", metric, "Gain"), rows)
    return Section(key, title, lead, shown, (table,), notes)


def _build_row(gain: BaselineGain) -> tuple[Cell, ...]:
    return (
        Cell(format_model_name(gain.name), describe_verdict(gain)),
        Cell(format_number(gain.alternative.value), format_interval(gain.alternative)),
        Cell(format_number(gain.gain.value, sign=True), format_interval(gain.gain, sign=True)),
    )
