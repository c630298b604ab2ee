"""What each hospital gains or loses: the shared model against its own alone, on its own test patients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fedhealth.evaluation.metrics import Estimate
from fedhealth.report.page import Cell, Notice, ReportTable, Section
from fedhealth.report.verdict import Verdict, judge_gain
from fedhealth.report.wording import METRIC_NAMES, format_estimate, format_interval, format_number, join_words
from fedhealth.runs.record import RunRecord
from fedhealth.runs.results import SiteGain

_CHANCE = 0.5  # AUROC of guessing
_NOTE = (
    "Both models are scored on the hospital's own test patients; the interval is that of the paired difference. The "
    "personal copy is the shared model, trained further at the hospital for a few steps without noise, as with "
    "personalization=finetune: it never leaves. A hospital with few test patients has a wide interval: a loss that may "
    "be due to chance is still the best estimate of what its patients would get."
)


def build_site_gains_section(run: RunRecord) -> Section | None:
    """Return the verdict per hospital: who gains, who loses, and what personalization would give."""
    if run.comparison is None or not run.comparison.sites:
        return None
    sites, metric = run.comparison.sites, METRIC_NAMES[run.comparison.metric]
    has_tuned = any(not math.isnan(each.tuned.value) for each in sites)
    head = ("Hospital", "Alone", "Shared model", "Gain", *(("Personal copy",) if has_tuned else ()))
    rows = tuple(_build_row(each, has_tuned) for each in sites)
    table = ReportTable(f"{metric} on the hospital's own test patients [95\N{NO-BREAK SPACE}% interval]", head, rows)
    return Section("gains", "What each hospital gains", describe_sites(sites), (), (table,), (_NOTE,))


def describe_sites(sites: Sequence[SiteGain]) -> str:
    """Return who gains and who loses, in one paragraph."""
    names = {verdict: [each.site for each in sites if _judge_site(each) is verdict] for verdict in Verdict}
    losers = list_losers(sites)
    parts = [_describe_loss(each) for each in losers]
    weak = {each.site for each in list_weak_baselines(sites)}
    if sound := [name for name in names[Verdict.better] if name not in weak]:
        parts.append(f"{join_words(sound)} {_conjugate(sound, 'gain')}.")
    if unsound := [name for name in names[Verdict.better] if name in weak]:
        parts.append(f"{join_words(unsound)} {_conjugate(unsound, 'gain')} only over guessing: no gain is shown there.")
    if unclear := [name for name in names[Verdict.unclear] if name not in {each.site for each in losers}]:
        parts.append(f"There is no clear difference for {join_words(unclear)}.")
    if names[Verdict.undefined]:
        parts.append(f"Nothing can be said about {join_words(names[Verdict.undefined])}: too few test patients.")
    return " ".join(filter(None, [*parts, describe_weak_baselines(sites)]))


def list_weak_baselines(sites: Sequence[SiteGain]) -> list[SiteGain]:
    """Return the hospitals whose own model cannot be told from guessing on their own test patients."""
    return [each for each in sites if each.alone.low <= _CHANCE]


def describe_weak_baselines(sites: Sequence[SiteGain]) -> str:
    """Return one sentence about these hospitals; empty if there are none."""
    weak = [f"{each.site} ({format_number(each.alone.value)})" for each in list_weak_baselines(sites)]
    if not weak:
        return ""
    verb = "is" if len(weak) == 1 else "are"
    return (
        f"Alone, {join_words(weak)} {verb} no better than chance after as many steps as in the run: such a gain says "
        "less than it seems, because with more steps or more patients the own model may be better."
    )


def list_losers(sites: Sequence[SiteGain]) -> list[SiteGain]:
    """Return the hospitals whose own patients are served worse by the shared model, the largest loss first."""
    return sorted((each for each in sites if each.gain.value < 0), key=lambda each: each.gain.value)


def summarize_losers(sites: Sequence[SiteGain]) -> str:
    """Return one sentence that names the hospitals that lose; empty if there are none."""
    losers = [f"{each.site} ({_format_change(each)})" for each in list_losers(sites)]
    return f"Not for every hospital: alone is better for {join_words(losers)}." if losers else ""


def warn_losing_sites(run: RunRecord) -> Iterator[Notice]:
    """Warn that single hospitals lose by the shared model, and say what personalization would give them."""
    for each in list_losers(run.comparison.sites) if run.comparison else ():
        certain = _judge_site(each) is Verdict.worse
        title = f"{each.site} {'loses' if certain else 'may lose'} by the shared model"
        yield Notice(title, f"{_describe_loss(each)} {advise_site(each)}")


def warn_weak_baselines(run: RunRecord) -> Iterator[Notice]:
    """Warn that gains are measured against models that learned nothing."""
    if run.comparison and (weak := describe_weak_baselines(run.comparison.sites)):
        yield Notice("A hospital's own model is no better than chance", weak)


def _judge_site(each: SiteGain) -> Verdict:
    return judge_gain(each.gain)


def _describe_verdict(each: SiteGain) -> str:
    gains_over_guessing = _judge_site(each) is Verdict.better and list_weak_baselines([each])
    return "gains only over guessing" if gains_over_guessing else _WORDS[_judge_site(each)]


def _describe_loss(each: SiteGain) -> str:
    chance = "" if _judge_site(each) is Verdict.worse else "; it may be due to chance"
    return (
        f"{each.site}'s own patients get {format_number(each.shared.value)} instead of "
        f"{format_number(each.alone.value)} alone ({format_estimate(each.gain, sign=True)}{chance})."
    )


def advise_site(each: SiteGain) -> str:
    """Return what personalization would give this hospital."""
    if math.isnan(each.tuned.value):
        return "The run has personal models already, so another method may suit better: see docs/personalization.md."
    reached = f"A personal copy of the shared model reaches {format_number(each.tuned.value)}"
    if each.tuned_gain.value >= 0:
        return f"{reached}: set personalization=finetune, or compare with personalization=ditto."
    if each.tuned.value > each.shared.value:
        return f"{reached}, still less than alone: try personalization=ditto, or let it use its own model."
    return f"{reached} and does not help: this hospital is served best by its own model."


def _build_row(each: SiteGain, has_tuned: bool) -> tuple[Cell, ...]:
    cells = (
        Cell(each.site, _describe_verdict(each)),
        _build_cell(each.alone),
        _build_cell(each.shared),
        _build_cell(each.gain, sign=True),
    )
    return (*cells, _build_cell(each.tuned)) if has_tuned else cells


def _build_cell(estimate: Estimate, sign: bool = False) -> Cell:
    return Cell(format_number(estimate.value, sign=sign), format_interval(estimate, sign=sign))


def _format_change(each: SiteGain) -> str:
    chance = "" if _judge_site(each) is Verdict.worse else ", may be chance"
    return f"{format_number(each.gain.value, sign=True)}{chance}"


def _conjugate(names: Sequence[str], verb: str) -> str:
    return verb if len(names) > 1 else f"{verb}s"


_WORDS = {
    Verdict.better: "gains",
    Verdict.worse: "loses",
    Verdict.unclear: "no clear difference",
    Verdict.undefined: "too few test patients",
}
