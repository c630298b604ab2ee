"""Which round's model is exported, and when training ends early: by the pooled validation score of each round.

A score is that of a sum over all sites. Where no round has a score (no validation rows, or differential privacy, which
would have to pay for every score) the last round is exported. See `fedhealth.config.selection_rule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedhealth.config.schema import Select

NO_SCORES = "No round has a score, because no hospital reported validation rows of both classes"


@dataclass(frozen=True)
class RoundSelection:
    """The rule of a run.

    Attributes:
        select: the best round, or the last.
        patience: number of scored rounds without a better score after which training ends; None trains all rounds.

    """

    select: Select = Select.last
    patience: int | None = None

    def is_over(self, scores: Mapping[int, float]) -> bool:
        """Return whether training ends after the round whose request brought the newest score."""
        best = find_best_round(scores)
        return best is not None and self.patience is not None and max(scores) - best >= self.patience

    def choose_round(self, last: int, scores: Mapping[int, float]) -> int:
        """Return the round to export.

        Args:
            last: the last round.
            scores: by round, that of the last one included if it is known.

        """
        best = find_best_round(scores) if self.select is Select.best and last in scores else None
        return last if best is None else best

    def explain_missing_scores(self, scores: Mapping[int, float]) -> str:
        """Return why the last round is exported although the best one was asked for; empty if a round has a score."""
        return NO_SCORES if self.select is Select.best and not scores else ""


def find_best_round(scores: Mapping[int, float]) -> int | None:
    """Return the trained round with the highest score, the earliest of equal ones; None if there is none."""
    trained = sorted(number for number in scores if number > 0)
    return max(trained, key=lambda number: scores[number], default=None)
