"""Report how much the hospitals differ, and which methods to try against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedhealth.report import charts
from fedhealth.report.charts import ChartSeries
from fedhealth.report.page import Cell, Chart, ReportTable, Section
from fedhealth.report.site_gains import list_losers
from fedhealth.report.wording import format_count, format_percent, join_words
from fedhealth.runs.record import RunRecord, SiteBinCounts

PREVALENCE_RATIO = 5.0  # a smaller ratio of prevalences is common
FEATURE_SHIFT = 1.0  # difference between hospitals, in units of a clinical variable's public scale
DIVERGENCE_SHARE = 0.9  # share of the number of hospitals, which is the divergence of orthogonal updates

_TITLES = {
    "rows": "Training rows",
    "prevalence": "Prevalence",
    "coverage": "Patients with the modality",
    "image": "Grey values",
    "text": "Length of notes",
    "tabular": "Clinical variables (in units of their public scale)",
}


@dataclass(frozen=True)
class Spread:
    """Range of one quantity over the hospitals, from the lowest to the highest occupied bin.

    Attributes:
        table: kind of quantity, such as `prevalence`.
        row: class, modality or variable.
        low: edges of the lowest occupied bin; infinite at an open end.
        high: edges of the highest occupied bin.
        sites: number of hospitals that have the quantity.

    """

    table: str
    row: str
    low: tuple[float, float]
    high: tuple[float, float]
    sites: int

    @property
    def fold(self) -> float:
        """Lower bound of the ratio of the highest to the lowest value; at most 1 in the same or neighbouring bins."""
        return self.high[0] / self.low[1] if self.low[1] > 0 and math.isfinite(self.high[0]) else 1.0


def build_heterogeneity_section(run: RunRecord) -> Section | None:
    """Return the section about differences between the hospitals and the divergence of their updates."""
    spreads = compute_spreads(run.profile)
    drifts = {each.number: each.divergence for each in run.rounds if each.divergence is not None}
    if not spreads and not drifts:
        return None
    advice = [line for rule in RULES for line in rule(run, spreads)]
    lead = " ".join(advice) or "Nothing here suggests that one shared model is unsuitable for some of the hospitals."
    tables = tuple(
        ReportTable(title, ("", "Lowest hospital", "Highest hospital", "Hospitals"), tuple(map(_build_row, of_table)))
        for name, title in _TITLES.items()
        if (of_table := [each for each in spreads if each.table == name])
    )
    drawn = (_draw_divergence(run, drifts),) if drifts else ()
    notes = (
        "Each hospital counted itself in one public bin, and only the sums were visible: the tables show that there is "
        "such a hospital, but not which one it is.",
    )
    if not spreads:
        notes = (
            "With differential privacy, differences in prevalence, modalities and features are not reported by the "
            "hospitals.",
        )
    return Section("heterogeneity", "How the hospitals differ", lead, drawn, tables, notes)


def compute_spreads(profile: Mapping[str, SiteBinCounts]) -> list[Spread]:
    """Return the range of every quantity that at least one hospital has."""
    spreads = []
    for name, bins in profile.items():
        edges = (-math.inf, *bins.edges, math.inf)
        for row, counts in zip(bins.rows, bins.counts, strict=True):
            taken = [at for at, count in enumerate(counts) if count > 0]
            if taken:
                low, high = ((edges[at], edges[at + 1]) for at in (taken[0], taken[-1]))
                spreads.append(Spread(name, row, low, high, sum(counts)))
    return spreads


def check_prevalence(run: RunRecord, spreads: Sequence[Spread]) -> Iterator[str]:
    """Recommend personalization if a class is much more frequent at one hospital than at another."""
    for each in spreads:
        if each.table == "prevalence" and each.fold >= PREVALENCE_RATIO:
            yield (
                f"The prevalence of {each.row} differs at least {each.fold:.0f}-fold between hospitals: "
                f"try {_name_personalization(run, 'fedbn')} or personalization=ditto."
            )


def check_missing_modalities(run: RunRecord, spreads: Sequence[Spread]) -> Iterator[str]:
    """Report a modality that some hospital does not have."""
    for each in spreads:
        if each.table == "coverage" and each.low[0] == -math.inf and each.high[0] > 0:
            yield (
                f"At least one hospital has no {each.row} data, so its patients are scored without it: "
                "compare with a model that does not use this modality."
            )


def check_feature_shift(run: RunRecord, spreads: Sequence[Spread]) -> Iterator[str]:
    """Recommend local normalisation if features differ strongly between hospitals."""
    far = [each.row for each in spreads if each.table == "tabular" and each.high[0] - each.low[1] >= FEATURE_SHIFT]
    bright = [each for each in spreads if each.table == "image" and each.row == "mean" and each.fold >= 2]
    local = _name_personalization(run, "fedbn")
    if far:
        yield f"{join_words(far)} differ by more than their usual spread between hospitals: try {local}."
    if bright:
        yield f"Some hospitals' images are twice as bright as others': try {local}, or check their export."


def _name_personalization(run: RunRecord, option: str) -> str:
    """Return the overrides for a method that keeps layers at the hospitals, which gradients do not allow."""
    sends_gradients = run.get_setting("training.sends") == "gradient"
    return f"method=fedavg personalization={option}" if sends_gradients else f"personalization={option}"


def check_update_divergence(run: RunRecord, spreads: Sequence[Spread]) -> Iterator[str]:
    """Recommend methods against client drift if the updates of the last round are at least nearly orthogonal.

    Gradients of one common model do not drift, in whatever directions they point.
    """
    if run.get_setting("training.sends") == "gradient":
        return
    last = next((each for each in reversed(run.rounds) if each.divergence is not None), None)
    noised = run.is_private
    if (
        last
        and last.divergence is not None
        and not noised
        and last.divergence >= DIVERGENCE_SHARE * len(last.replies) > DIVERGENCE_SHARE
    ):
        yield (
            "The hospitals' updates point in different directions: "
            "try method=scaffold, personalization=fedprox or fewer local steps."
        )


def check_losing_sites(run: RunRecord, spreads: Sequence[Spread]) -> Iterator[str]:
    """Recommend personal models if the shared model serves some hospital worse than its own."""
    if run.comparison and (losers := list_losers(run.comparison.sites)):
        names = join_words([each.site for each in losers])
        yield f"The shared model suits {names} less than a model trained there alone: try personalization=finetune."


RULES: tuple[Callable[[RunRecord, Sequence[Spread]], Iterator[str]], ...] = (
    check_prevalence,
    check_missing_modalities,
    check_feature_shift,
    check_update_divergence,
    check_losing_sites,
)


def _build_row(each: Spread) -> tuple[Cell, ...]:
    share = each.table in ("prevalence", "coverage")
    return (
        Cell(each.row),
        Cell(_format_range(each.low, share)),
        Cell(_format_range(each.high, share)),
        Cell(str(each.sites)),
    )


def _format_range(ends: tuple[float, float], share: bool) -> str:
    low, high = ("" if math.isinf(end) else _format_bound(end, share) for end in ends)
    if not low:
        return f"below {high}"
    return f"{low} to {high}" if high else f"{low} or more"


def _format_bound(value: float, share: bool) -> str:
    if share:
        return format_percent(value) if value in (0.25, 0.5, 0.75) or value >= 0.1 else f"{100 * value:.2g} %"
    return f"{value:g}"


def _draw_divergence(run: RunRecord, drifts: Mapping[int, float]) -> Chart:
    line = ChartSeries("divergence of updates", list(drifts), list(drifts.values()))
    sites = max((len(each.replies) for each in run.rounds), default=0)
    description = (
        "Mean squared length of the hospitals' updates divided by the squared length of their mean, by round: 1 if all "
        f"updates are equal, {sites} if the updates of {format_count(sites, 'hospital')} are orthogonal."
    )
    if run.is_private:
        description += " It includes the noise of differential privacy."
    return Chart("Divergence of updates", description, charts.draw_curves(line, [], "divergence"))
