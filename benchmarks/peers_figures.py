"""From what each contestant used to the figures of `benchmarks.peers`: medians, ratios and a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table

from benchmarks.peers_usage import Usage

OURS, BARE = "fedhealth", "bare"
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Outcome:
    """One run of one contestant.

    Attributes:
        usage: what it used.
        score: AUROC of its final model on all sites' test rows.
        sent: bytes that the sites sent in all; None if not known.

    """

    usage: Usage
    score: float
    sent: int | None


@dataclass(frozen=True)
class Series:
    """All runs of one contestant at one task (`tabular` or `image`) in one variant (`plain`, `secagg` or `dp`)."""

    task: str
    variant: str
    contestant: str
    outcomes: Sequence[Outcome]

    @property
    def wall(self) -> float:
        """The median of the wall times in seconds."""
        return median(each.usage.wall for each in self.outcomes)

    @property
    def cpu(self) -> float:
        """The median of the processor seconds."""
        return median(each.usage.cpu for each in self.outcomes)

    @property
    def memory(self) -> float:
        """The median of the peaks of memory in bytes."""
        return median(each.usage.memory for each in self.outcomes)

    @property
    def score(self) -> float:
        """The median of the scores."""
        return median(each.score for each in self.outcomes)


def make_table(found: Sequence[Series], missing: Mapping[str, str]) -> Table:
    """Return the table of all contestants; `missing` has the reasons why peers were not measured."""
    table = Table("Task", "Variant", "Contestant", "Wall s", "CPU s", "CPU / bare", "Memory MiB", "Sent KB", "AUROC")
    for each in found:
        sent = each.outcomes[0].sent
        table.add_row(
            each.task,
            each.variant,
            each.contestant,
            f"{each.wall:.1f}",
            f"{each.cpu:.1f}",
            f"{each.cpu / _find_yardstick(found, each):.2f}",
            f"{each.memory / MEBIBYTE:.0f}",
            "not known" if sent is None else f"{sent / 1000:.0f}",
            f"{each.score:.3f}",
        )
    for contestant, reason in missing.items():
        table.add_row("", "", contestant, f"not measured: {reason}")
    return table


def compute_figures(found: Sequence[Series]) -> dict[str, float]:
    """Return the figures by name; those of private training and of secure aggregation end in `_dp` and `_secagg`.

    cpu_over_bare_TASK is our processor time over that of the bare loop, which is private where we are.
    peers_best_over_ours_TASK is the least processor time of a peer over ours, in the same variant.
    plain_peers_best_over_ours_TASK_secagg is the same for a peer without secure aggregation over ours with it.
    memory_over_best_peer is our peak over the least of a peer, the larger of both tasks.
    """
    figures: dict[str, float] = {}
    memory: dict[str, list[float]] = {}
    for ours in (each for each in found if each.contestant == OURS):
        end = "" if ours.variant == "plain" else f"_{ours.variant}"
        figures[f"cpu_over_bare_{ours.task}{end}"] = ours.cpu / _find_yardstick(found, ours)
        if peers := list(_find_peers(found, ours.task, ours.variant)):
            figures[f"peers_best_over_ours_{ours.task}{end}"] = min(each.cpu for each in peers) / ours.cpu
            memory.setdefault(end, []).append(ours.memory / min(each.memory for each in peers))
        if ours.variant == "secagg" and (plain := list(_find_peers(found, ours.task, "plain"))):
            figures[f"plain_peers_best_over_ours_{ours.task}_secagg"] = min(each.cpu for each in plain) / ours.cpu
        figures[f"score_minus_bare_{ours.task}{end}"] = ours.score - _find_bare(found, ours).score
    figures |= {f"memory_over_best_peer{end}": max(ratios) for end, ratios in memory.items()}
    return {name: round(value, 3) for name, value in figures.items()}


def _find_peers(found: Sequence[Series], task: str, variant: str) -> Iterator[Series]:
    for each in found:
        if (each.task, each.variant) == (task, variant) and each.contestant not in (OURS, BARE):
            yield each


def _find_bare(found: Sequence[Series], of: Series) -> Series:
    """Return the bare loop of the same task: with Opacus if the run is private."""
    variant = "dp" if of.variant == "dp" else "plain"
    return next(each for each in found if (each.task, each.variant, each.contestant) == (of.task, variant, BARE))


def _find_yardstick(found: Sequence[Series], of: Series) -> float:
    return _find_bare(found, of).cpu
