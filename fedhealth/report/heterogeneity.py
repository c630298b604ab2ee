"""How different the hospitals are, and what to try about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedhealth.report import charts
from fedhealth.report.charts import Series
from fedhealth.report.page import Cell, Chart, Section, Table
from fedhealth.report.wording import counted, listed, percent
from fedhealth.runs.record import Bins, Run

FEW_FOLD = 5.0  # prevalence differing by less is nothing special
FAR = 1.0  # in units of a clinical variable's public scale
APART = 0.9  # share of the number of hospitals: updates at right angles

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
    """One quantity over the hospitals: from the lowest occupied bin's lower end to the highest one's upper end.

    Attributes:
        table: which quantity.
        row: of what.
        low: edges of the lowest occupied bin; infinite at an open end.
        high: edges of the highest occupied bin.
        sites: hospitals that have it.

    """

    table: str
    row: str
    low: tuple[float, float]
    high: tuple[float, float]
    sites: int

    @property
    def fold(self) -> float:
        """At least how many times the highest is the lowest; 1 where they share a bin or neighbour bins."""
        return self.high[0] / self.low[1] if self.low[1] > 0 and math.isfinite(self.high[0]) else 1.0


def heterogeneity(run: Run) -> Section | None:
    """Show what the sums tell of how the hospitals differ, and how far their updates point apart."""
    found = spreads(run.profile)
    drifts = {each.number: each.divergence for each in run.rounds if each.divergence is not None}
    if not found and not drifts:
        return None
    advice = [line for rule in RULES for line in rule(run, found)]
    lead = " ".join(advice) or "Nothing here says that one shared model would not suit all of the hospitals."
    tables = tuple(
        Table(title, ("", "Lowest hospital", "Highest hospital", "Hospitals"), tuple(map(_row, of_table)))
        for name, title in _TITLES.items()
        if (of_table := [each for each in found if each.table == name])
    )
    drawn = (_chart(run, drifts),) if drifts else ()
    notes = (
        "Each hospital put a one into a public bin and only the sums were seen: the tables tell that there is such a "
        "hospital, not which.",
    )
    if not found:
        notes = ("How prevalence, modalities and features differ stays at the hospitals under differential privacy.",)
    return Section("heterogeneity", "How the hospitals differ", lead, drawn, tables, notes)


def spreads(profile: Mapping[str, Bins]) -> list[Spread]:
    """Return the range of every quantity that some hospital has."""
    found = []
    for name, bins in profile.items():
        edges = (-math.inf, *bins.edges, math.inf)
        for row, counts in zip(bins.rows, bins.counts, strict=True):
            taken = [at for at, count in enumerate(counts) if count > 0]
            if taken:
                low, high = ((edges[at], edges[at + 1]) for at in (taken[0], taken[-1]))
                found.append(Spread(name, row, low, high, sum(counts)))
    return found


def different_prevalence(run: Run, found: Sequence[Spread]) -> Iterator[str]:
    """Recommend personalization where a class is much more frequent at one hospital than at another."""
    for each in found:
        if each.table == "prevalence" and each.fold >= FEW_FOLD:
            yield (
                f"The prevalence of {each.row} differs at least {each.fold:.0f}-fold between hospitals: "
                "try personalization=fedbn or personalization=ditto."
            )


def missing_modalities(run: Run, found: Sequence[Spread]) -> Iterator[str]:
    """Say which modality some hospital lacks altogether."""
    for each in found:
        if each.table == "coverage" and each.low[0] == -math.inf and each.high[0] > 0:
            yield (
                f"Some hospital has no {each.row} data: its patients are seen without it; "
                "compare with a model that leaves the modality out."
            )


def shifted_features(run: Run, found: Sequence[Spread]) -> Iterator[str]:
    """Recommend local normalisation where features lie far apart."""
    far = [each.row for each in found if each.table == "tabular" and each.high[0] - each.low[1] >= FAR]
    bright = [each for each in found if each.table == "image" and each.row == "mean" and each.fold >= 2]
    if far:
        yield f"{listed(far)} differ by more than their usual spread between hospitals: try personalization=fedbn."
    if bright:
        yield "Images of some hospitals are twice as bright as others': try personalization=fedbn, or check the export."


def updates_apart(run: Run, found: Sequence[Spread]) -> Iterator[str]:
    """Recommend methods against client drift where the last round's updates are at right angles or worse."""
    last = next((each for each in reversed(run.rounds) if each.divergence is not None), None)
    noised = run.protected("privacy")
    if last and last.divergence is not None and not noised and last.divergence >= APART * len(last.answers) > APART:
        yield "The hospitals' updates point apart: try method=scaffold, personalization=fedprox or fewer local steps."


RULES: tuple[Callable[[Run, Sequence[Spread]], Iterator[str]], ...] = (
    different_prevalence,
    missing_modalities,
    shifted_features,
    updates_apart,
)


def _row(each: Spread) -> tuple[Cell, ...]:
    share = each.table in ("prevalence", "coverage")
    return Cell(each.row), Cell(_range(each.low, share)), Cell(_range(each.high, share)), Cell(str(each.sites))


def _range(ends: tuple[float, float], share: bool) -> str:
    low, high = ("" if math.isinf(end) else _number(end, share) for end in ends)
    if not low:
        return f"below {high}"
    return f"{low} to {high}" if high else f"{low} or more"


def _number(value: float, share: bool) -> str:
    if share:
        return percent(value) if value in (0.25, 0.5, 0.75) or value >= 0.1 else f"{100 * value:.2g} %"
    return f"{value:g}"


def _chart(run: Run, drifts: Mapping[int, float]) -> Chart:
    line = Series("divergence of updates", list(drifts), list(drifts.values()))
    sites = max((len(each.answers) for each in run.rounds), default=0)
    told = (
        "Mean squared length of the hospitals' updates over that of their mean, by round: 1 where all send the same, "
        f"{sites} where {counted(sites, 'hospital')} pull at right angles."
    )
    if run.protected("privacy"):
        told += " The noise of differential privacy is part of it."
    return Chart("How far updates point apart", told, charts.curves(line, [], "divergence"))
