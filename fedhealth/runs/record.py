"""A run as frozen dataclasses: what the report is made from, neither worded nor drawn.

What a run directory does not hold is empty or NaN here, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedhealth.evaluation.metrics import Estimate
from fedhealth.privacy.accounting.spending import Spending, Total

FEDERATED = "federated"
CENTRALISED = "centralised"
ALONE_ON_AVERAGE = "alone, on average"
MODALITIES = ("image", "text", "tabular")

_UNPROTECTED = {
    "privacy": ("fedhealth.training.trainer.PlainTrainer",),
    "secagg.lead": ("strategies.aggregation.mean.WeightedMean",),
}


@dataclass(frozen=True)
class Answer:
    """One site's answer: seconds since it was asked, bytes sent to it and received from it, its own results.

    `own` is None where the lead may not see one site's results.
    """

    site: str
    seconds: float
    sent: int
    received: int
    own: Mapping[str, Any] | None


@dataclass(frozen=True)
class Round:
    """One exchange with the sites: a training round, or the final evaluation.

    Attributes:
        number: 1 for the first training round.
        answers: of the sites that took part.
        failures: reason by site that was asked and is missing.
        seconds: the whole round; NaN where it was not completed.
        pooled: examples, loss and the metrics of the model that came IN to the round.
        divergence: how far the sites' updates point apart; None where it is not known.

    """

    number: int
    answers: tuple[Answer, ...]
    failures: Mapping[str, str]
    seconds: float
    pooled: Mapping[str, Any]
    divergence: float | None = None


@dataclass(frozen=True)
class Bins:
    """How many sites lie between which edges, for each of some rows."""

    rows: tuple[str, ...]
    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Site:
    """A site's data as it was read: counts by name (empty where unknown), warnings, reasons of rejected files."""

    name: str
    counts: Mapping[str, int]
    warnings: tuple[str, ...]
    rejected: tuple[str, ...]
    declined: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """The final model on a split of all sites.

    Attributes:
        studies: that are labelled.
        metrics: with their intervals.
        errors: by metric, how far a value from summed histograms can be off; empty where unknown.

    """

    studies: int
    metrics: Mapping[str, Estimate]
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Histogram:
    """Studies with and without the class by score bin (`metrics.bin_centres`), each int64 [classes, bins]."""

    positives: np.ndarray
    negatives: np.ndarray


@dataclass(frozen=True)
class Group:
    """The final model on one group of test patients: studies (None where too few to say), and metrics if large."""

    name: str
    studies: int | None
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Grouping:
    """A variable that patients are grouped by, and the AUROC of its best group less that of its worst."""

    variable: str
    groups: tuple[Group, ...]
    gap: Estimate


@dataclass(frozen=True)
class Gain:
    """What an alternative reaches, and what federating gains over it (paired)."""

    name: str
    alternative: Estimate
    gain: Estimate


@dataclass(frozen=True)
class Comparison:
    """The federation beside its alternatives, all on the same test patients.

    Attributes:
        metric: that is compared.
        federated: the federated model, pooled, by metric.
        own: each model's score on one site's own test patients, by (model, site).
        gains: by alternative's name.

    """

    metric: str
    federated: Mapping[str, Estimate]
    own: Mapping[tuple[str, str], Estimate]
    gains: Mapping[str, Gain]


@dataclass(frozen=True)
class Run:
    """All of it; `folder` is named, never read again.

    `spending` (by run) and `totals` (of all runs) are known where the sites' ledgers lie below it.
    """

    folder: str
    about: Mapping[str, Any]
    config: Mapping[str, Any]
    config_text: str
    sites: tuple[Site, ...]
    rounds: tuple[Round, ...]
    final: Round | None
    training_seconds: float
    evaluation: Mapping[str, Split]
    histograms: Mapping[str, Histogram]
    comparison: Comparison | None
    spending: tuple[Spending, ...] = ()
    totals: tuple[Total, ...] = ()
    audit: tuple[str, ...] = ()
    profile: Mapping[str, Bins] = field(default_factory=dict)
    groupings: tuple[Grouping, ...] = ()

    def setting(self, path: str, default: Any = None) -> Any:
        """Return the configuration's value at a dotted path."""
        tree: Any = self.config
        for key in path.split("."):
            if not isinstance(tree, Mapping) or key not in tree:
                return default
            tree = tree[key]
        return tree

    @property
    def exchanges(self) -> tuple[Round, ...]:
        """The training rounds and the final evaluation."""
        return (*self.rounds, self.final) if self.final else self.rounds

    @property
    def taking_part(self) -> tuple[str, ...]:
        """The sites that answered at least once, in the order of `sites`."""
        answered = {answer.site for each in self.exchanges for answer in each.answers}
        return tuple(site.name for site in self.sites if site.name in answered)

    @property
    def test(self) -> Split | None:
        """The final model on test rows, where there are labelled ones.

        The comparison has exact scores and resamples patients, the evaluation has summed histograms and resamples
        studies: equal but for the last digits. The page shows the comparison's throughout where it exists.
        """
        found = self.evaluation.get("test")
        if found is None or not found.studies:
            return None
        return replace(found, metrics=self.comparison.federated) if self.comparison else found

    @property
    def rounds_done(self) -> int:
        """How many rounds were completed; one that was begun again after a crash counts once."""
        return len({each.number for each in self.rounds if not math.isnan(each.seconds)})

    def protected(self, part: str) -> bool | None:
        """Say whether `privacy` or `secagg.lead` is something else than the unprotected default; None = unknown."""
        target = self.setting(f"{part}._target_")
        return None if target is None else target not in _UNPROTECTED[part]

    def missed(self, site: str) -> tuple[Round, ...]:
        """Return the training rounds that went on without a site that was asked."""
        return tuple(each for each in self.rounds if site in each.failures)


def traffic_per_site(run: Run) -> tuple[float, float]:
    """Return the mean bytes to and from a site that took part, over the whole run."""
    sites = len(run.taking_part)
    answers = [answer for each in run.exchanges for answer in each.answers]
    totals = (sum(answer.sent for answer in answers), sum(answer.received for answer in answers))
    return (totals[0] / sites, totals[1] / sites) if sites else (0.0, 0.0)
