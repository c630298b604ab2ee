"""The record of a run: configuration, sites, rounds, test metrics (AUROC, AUPRC, ...), baselines, privacy spending.

`load_record.load_run_record` fills these frozen dataclasses from the files of a run directory; the report, the model
card and MLflow tracking are made from them. A value that the run directory does not contain is empty or NaN, never
guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fedhealth.config.capabilities import Capabilities
from fedhealth.data.findings import DataFinding
from fedhealth.privacy.accounting.spending import DatasetSpending, RunSpending
from fedhealth.privacy.auditing.blank_values import BlankValues
from fedhealth.protocol.messages import PrivacyClaim
from fedhealth.runs.results import AuditResult, BaselineComparison, GroupingResult, ScoreBinCounts, SplitResult
from fedhealth.runs.run_metadata import RunMetadata

FEDERATED = "federated"
CENTRALISED = "centralised"
ALONE_ON_AVERAGE = "alone, on average"
MODALITIES = ("image", "text", "tabular")


@dataclass(frozen=True)
class SiteReply:
    """One site's reply in a round.

    Attributes:
        site: its name.
        seconds: from the request to the reply.
        bytes_sent: to the site.
        bytes_received: from the site.
        own_results: of this site alone; None where the lead may not see them.

    """

    site: str
    seconds: float
    bytes_sent: int
    bytes_received: int
    own_results: Mapping[str, Any] | None


@dataclass(frozen=True)
class RoundRecord:
    """One training round, or the final evaluation.

    Attributes:
        number: 1 for the first training round.
        replies: of the sites that took part.
        failures: reason, by site that got a request and did not contribute.
        seconds: duration of the round; NaN if it was not completed.
        pooled: examples, loss and the metrics of the model at the START of the round.
        divergence: of the sites' updates; None if unknown.

    """

    number: int
    replies: tuple[SiteReply, ...]
    failures: Mapping[str, str]
    seconds: float
    pooled: Mapping[str, Any]
    divergence: float | None = None


@dataclass(frozen=True)
class SelectedRound:
    """The round whose model is exported.

    Attributes:
        number: of the round.
        score: pooled validation AUROC; NaN if it is not known.
        reason: why it was not chosen by `strategy.select`; empty if it was.

    """

    number: int
    score: float
    reason: str


@dataclass(frozen=True)
class SiteBinCounts:
    """Number of sites in each bin (between two `edges`), one histogram per row."""

    rows: tuple[str, ...]
    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SiteRecord:
    """One site: what it read of its data, and why it declined.

    Attributes:
        name: the site's name.
        counts: rows, patients and so on, by name; empty if unknown.
        findings: about its data.
        rejected: one reason per rejected file.
        declined: reasons for which it declined the run.
        privacy: what the run spends there at most, as the site said when it accepted; None without privacy.

    """

    name: str
    counts: Mapping[str, int]
    findings: tuple[DataFinding, ...]
    rejected: tuple[str, ...]
    declined: tuple[str, ...]
    privacy: PrivacyClaim | None = None


@dataclass(frozen=True)
class RunRecord:
    """Everything that is known of one run.

    `folder` is its name only; nothing is read from it again. `info` is the content of run.json. `spending` (privacy
    spent by this run) and `totals` (by all runs) are known only where the sites' ledgers are below the run directory.
    `opened_noise` has the blank values of all opened sums, by segment; it is empty where the sites share no noise.
    `final` is the evaluation of the exported model; `earlier` are those before it, of a last round that was not chosen.
    """

    folder: str
    info: RunMetadata
    config: Mapping[str, Any]
    config_text: str
    sites: tuple[SiteRecord, ...]
    rounds: tuple[RoundRecord, ...]
    final: RoundRecord | None
    training_seconds: float
    evaluation: Mapping[str, SplitResult]
    histograms: Mapping[str, ScoreBinCounts]
    comparison: BaselineComparison | None
    spending: tuple[RunSpending, ...] = ()
    totals: tuple[DatasetSpending, ...] = ()
    audit: tuple[AuditResult, ...] = ()
    profile: Mapping[str, SiteBinCounts] = field(default_factory=dict)
    groupings: tuple[GroupingResult, ...] = ()
    opened_noise: Mapping[str, BlankValues] = field(default_factory=dict)
    earlier: tuple[RoundRecord, ...] = ()
    selected: SelectedRound | None = None

    def get_setting(self, path: str, default: Any = None) -> Any:
        """Return the configuration's value at a dotted path."""
        tree: Any = self.config
        for key in path.split("."):
            if not isinstance(tree, Mapping) or key not in tree:
                return default
            tree = tree[key]
        return tree

    @property
    def exchanges(self) -> tuple[RoundRecord, ...]:
        """The training rounds and the evaluations after the last one."""
        return (*self.rounds, *self.earlier, self.final) if self.final else self.rounds

    @property
    def participating_sites(self) -> tuple[str, ...]:
        """The sites that replied at least once, in the order of `sites`."""
        names = {reply.site for each in self.exchanges for reply in each.replies}
        return tuple(site.name for site in self.sites if site.name in names)

    @property
    def test_result(self) -> SplitResult | None:
        """The final model's pooled test metrics; the report takes its AUROC from here.

        The source is comparison.json where it exists (computed from exact scores, patients resampled), otherwise
        evaluation.json (computed from summed score histograms, studies resampled). Both agree except for the last
        digits, and one report uses only one of them. None without labelled test rows.
        """
        result = self.evaluation.get("test")
        if result is None or not result.studies:
            return None
        if self.comparison is None:
            return result
        return replace(result, metrics=self.comparison.federated, calibrated=self.comparison.calibrated)

    @property
    def completed_rounds(self) -> int:
        """Number of completed rounds; a round that was repeated after a crash counts once."""
        return len({each.number for each in self.rounds if not math.isnan(each.seconds)})

    @property
    def capabilities(self) -> Capabilities | None:
        """What the run's parts declared at launch; None = unknown."""
        return self.info.capabilities

    @property
    def is_private(self) -> bool | None:
        """Whether training was differentially private; None = unknown."""
        return self.capabilities.trainer_is_private if self.capabilities else None

    @property
    def has_exact_results(self) -> bool:
        """Whether results hold no noise although the run is private: all data lay on one machine."""
        return self.is_private is True and self.has_local_data

    @property
    def has_exact_test_result(self) -> bool:
        """Whether `test_result` comes from exact scores although the run is private."""
        return self.has_exact_results and self.comparison is not None

    @property
    def has_secure_aggregation(self) -> bool | None:
        """Whether the lead saw sums of updates only; None = unknown."""
        return not self.capabilities.lead_sees_single_updates if self.capabilities else None

    @property
    def has_local_data(self) -> bool:
        """Whether all data lay on one machine."""
        return self.capabilities is not None and self.capabilities.data_are_local

    def list_missed_rounds(self, site: str) -> tuple[RoundRecord, ...]:
        """Return the training rounds that ran without a site, although it got a request."""
        return tuple(each for each in self.rounds if site in each.failures)


def compute_traffic_per_site(run: RunRecord) -> tuple[float, float]:
    """Return the mean bytes sent to and received from a participating site over the whole run."""
    sites = len(run.participating_sites)
    replies = [reply for each in run.exchanges for reply in each.replies]
    totals = (sum(reply.bytes_sent for reply in replies), sum(reply.bytes_received for reply in replies))
    return (totals[0] / sites, totals[1] / sites) if sites else (0.0, 0.0)
