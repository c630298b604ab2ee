"""What a sweep says before its first run: which private runs it will make, and the epsilon it will spend in all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_RUNS = 1000
MOST_WORDS = 200  # of one run
_ID = re.compile(r"[a-z0-9]{8,40}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_WORD = re.compile(r".{1,1000}")


@dataclass(frozen=True)
class Planned:
    """A run to come: its id, its words as `fedhealth.protocol.job.Job` has them, and the digest of what they compose to."""

    run: str
    words: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Statement:
    """What is asked of every site before the first run.

    Attributes:
        sweep: its id, the same after a restart.
        epsilon: the most that its runs will spend together, for each person they protect.
        runs: those that are still to come; none gives back what was reserved.

    """

    sweep: str
    epsilon: float
    runs: tuple[Planned, ...]

    @staticmethod
    def parse(fields: Any) -> Statement | None:
        """Read it back from plain values; None where there is none.

        Raises:
            ValueError: it is another shape than a statement's.

        """
        if fields is None:
            return None
        _exactly(fields, Statement)
        epsilon, runs = fields["epsilon"], fields["runs"]
        if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
            raise ValueError("epsilon is no amount")
        if not isinstance(runs, list) or len(runs) > MOST_RUNS:
            raise ValueError("runs are no list, or too many")
        statement = Statement(_like(_ID, fields["sweep"]), float(epsilon), tuple(map(_planned, runs)))
        if len({planned.run for planned in statement.runs}) < len(runs):
            raise ValueError("a run is named twice")
        return statement


def _planned(fields: Any) -> Planned:
    _exactly(fields, Planned)
    if not isinstance(fields["words"], list) or len(fields["words"]) > MOST_WORDS:
        raise ValueError("words are no list, or too many")
    words = tuple(_like(_WORD, word) for word in fields["words"])
    return Planned(_like(_ID, fields["run"]), words, _like(_DIGEST, fields["digest"]))


def _exactly(fields: Any, kind: type[Statement] | type[Planned]) -> None:
    if not isinstance(fields, Mapping) or set(fields) != set(kind.__dataclass_fields__):
        raise ValueError(f"it is no {kind.__name__.lower()}")


def _like(form: re.Pattern[str], value: Any) -> str:
    if not isinstance(value, str) or not form.fullmatch(value) or not value.isprintable():
        raise ValueError("a name, word or digest has another form")
    return value
