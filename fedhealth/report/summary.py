"""Summarize a run in one paragraph of plain text and in key figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import mean

from fedhealth.evaluation.metrics import PRIMARY_METRIC
from fedhealth.report.noise_notes import LOST, format_studies
from fedhealth.report.page import Tile
from fedhealth.report.privacy import describe_guarantee
from fedhealth.report.site_gains import summarize_losers
from fedhealth.report.verdict import find_mean_local_gain
from fedhealth.report.wording import (
    METRIC_NAMES,
    format_bytes,
    format_count,
    format_estimate,
    format_interval,
    format_number,
    join_words,
)
from fedhealth.runs.guarantee import get_spent_guarantee
from fedhealth.runs.record import CENTRALISED, RunRecord, compute_traffic_per_site
from fedhealth.utils.privacy_text import format_delta, format_noise_multiplier, format_unit


def summarize_run(run: RunRecord) -> str:
    """Return the summary paragraph."""
    parts = (
        _describe_result(run),
        _describe_baselines(run),
        _describe_traffic(run),
        _describe_absences(run),
        _describe_protection(run),
    )
    return " ".join(part for part in parts if part)


def build_tiles(run: RunRecord) -> tuple[Tile, ...]:
    """Return the key figures that this run has."""
    return tuple(_generate_tiles(run))


def _describe_result(run: RunRecord) -> str:
    sites = format_count(len(run.participating_sites), "hospital")
    scope = f"{sites}, {format_count(run.completed_rounds, 'round')}"
    if not run.rounds:
        return "No training round is recorded."
    if run.test_result is None:
        return f"{scope}: there is no test result, so the quality of the shared model is unknown."
    score, metric = run.test_result.metrics[PRIMARY_METRIC], METRIC_NAMES[PRIMARY_METRIC]
    on = f"on {format_studies(run.test_result, 'test study')} that no hospital trained on"
    if math.isnan(score.value) and run.test_result.noise:
        return f"{scope}: the pooled {metric} {on} is {LOST} of differential privacy."
    if math.isnan(score.value):
        return f"{scope}: the pooled {metric} {on} is not defined, because all belong to one class."
    exact = ", computed without noise from all data on this machine" if run.has_exact_test_result else ""
    return f"{scope}: the shared model reaches a pooled {metric} of {format_estimate(score)} {on}{exact}."


def _describe_baselines(run: RunRecord) -> str:
    if not run.comparison:
        return ""
    alone, pooled = find_mean_local_gain(run.comparison), run.comparison.gains.get(CENTRALISED)
    parts = []
    if alone and not math.isnan(alone.alternative.value):
        parts.append(f"trained alone, the hospitals reach {format_number(alone.alternative.value)} on average")
    if pooled and not math.isnan(pooled.alternative.value):
        parts.append(
            f"one model trained on all data pooled in one place reaches {format_number(pooled.alternative.value)}"
        )
    return " ".join(filter(None, (_to_sentence("; ".join(parts)), summarize_losers(run.comparison.sites))))


def _describe_traffic(run: RunRecord) -> str:
    down, up = compute_traffic_per_site(run)
    if not down and not up:
        return ""
    each = "Each hospital" if len(run.participating_sites) == 1 else "Each hospital on average"
    return f"{each} received {format_bytes(down)} and sent {format_bytes(up)}."


def _describe_absences(run: RunRecord) -> str:
    missed = [
        f"{site.name} missed {format_count(len(missed), 'round')}"
        for site in run.sites
        if (missed := run.list_missed_rounds(site.name))
    ]
    absent = [site.name for site in run.sites if site.name not in run.participating_sites] if run.rounds else []
    parts = [*missed, *([f"{join_words(absent)} did not take part"] if absent else [])]
    if parts:
        return f"{'; '.join(parts)}."
    return "No hospital missed a round." if run.rounds else ""


def _describe_protection(run: RunRecord) -> str:
    privacy = {True: f"trained with {describe_guarantee(run)}", False: "no differential privacy", None: ""}
    secagg = {
        True: "secure aggregation: the lead saw only sums over hospitals",
        False: "no secure aggregation: the lead saw each hospital's own update",
        None: "",
    }
    parts = [privacy[run.is_private], secagg[run.has_secure_aggregation]]
    return _to_sentence("; ".join(filter(None, parts)))


def _generate_tiles(run: RunRecord) -> Iterator[Tile]:
    if run.test_result and not math.isnan((score := run.test_result.metrics[PRIMARY_METRIC]).value):
        exact = ", without noise" if run.has_exact_test_result else ""
        label = f"pooled test {METRIC_NAMES[PRIMARY_METRIC]}{exact}"
        yield Tile(format_number(score.value), label, format_interval(score))
    gain = find_mean_local_gain(run.comparison) if run.comparison else None
    if gain and not math.isnan(gain.gain.value):
        yield Tile(
            format_number(gain.gain.value, sign=True),
            "gain over training alone",
            format_interval(gain.gain, sign=True),
        )
    if run.rounds:
        answered = mean(len(each.replies) / max(1, len(each.replies) + len(each.failures)) for each in run.rounds)
        of = f"{len(run.participating_sites)} of {len(run.sites)}"
        yield Tile(of, "hospitals took part", f"{100 * answered:.0f}\N{NO-BREAK SPACE}% of expected replies arrived")
        down, up = compute_traffic_per_site(run)
        yield Tile(format_bytes(up), "sent by each hospital", f"{format_bytes(down)} received")
    yield from _generate_epsilon_tile(run)


def _generate_epsilon_tile(run: RunRecord) -> Iterator[Tile]:
    if spent := get_spent_guarantee(run):
        noise = f"noise multiplier {format_noise_multiplier(spent.noise_multiplier)}"
        note = f"for each {format_unit(spent.unit)}, {noise}; the highest at any hospital"
        yield Tile(f"{spent.epsilon:.2f}", f"epsilon spent at delta {format_delta(spent.delta)}", note)


def _to_sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""
