"""A sweep's budget request, sent before its first run: its private runs and the total epsilon that they may spend."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_RUNS = 1000
MAX_OVERRIDES = 200  # of one run
_ID = re.compile(r"[a-z0-9]{8,40}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_OVERRIDE = re.compile(r".{1,1000}")


@dataclass(frozen=True)
class PlannedRun:
    """A planned run: its id, its overrides as in `fedhealth.protocol.job.Job`, and the digest of its configuration."""

    run: str
    overrides: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class BudgetRequest:
    """A request to every site to reserve budget for the runs of a sweep.

    Attributes:
        sweep: its id, the same after a restart.
        epsilon: maximum that its runs spend together, for each protected person.
        runs: those that have not started; an empty request releases the reservation.

    """

    sweep: str
    epsilon: float
    runs: tuple[PlannedRun, ...]

    @staticmethod
    def parse(fields: Any) -> BudgetRequest | None:
        """Parse plain values; None for None.

        Raises:
            ValueError: the values are not a budget request.

        """
        if fields is None:
            return None
        _check_fields(fields, BudgetRequest)
        epsilon, runs = fields["epsilon"], fields["runs"]
        if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
            raise ValueError("epsilon is not a finite amount")
        if not isinstance(runs, list) or len(runs) > MAX_RUNS:
            raise ValueError("runs are not a list, or too many")
        request = BudgetRequest(_match_text(_ID, fields["sweep"]), float(epsilon), tuple(map(_parse_run, runs)))
        if len({planned.run for planned in request.runs}) < len(runs):
            raise ValueError("a run is named twice")
        return request


def _parse_run(fields: Any) -> PlannedRun:
    _check_fields(fields, PlannedRun)
    if not isinstance(fields["overrides"], list) or len(fields["overrides"]) > MAX_OVERRIDES:
        raise ValueError("overrides are not a list, or too many")
    overrides = tuple(_match_text(_OVERRIDE, override) for override in fields["overrides"])
    return PlannedRun(_match_text(_ID, fields["run"]), overrides, _match_text(_DIGEST, fields["digest"]))


def _check_fields(fields: Any, kind: type[BudgetRequest] | type[PlannedRun]) -> None:
    if not isinstance(fields, Mapping) or set(fields) != set(kind.__dataclass_fields__):
        raise ValueError(f"its fields are not those of a {kind.__name__}")


def _match_text(form: re.Pattern[str], value: Any) -> str:
    if not isinstance(value, str) or not form.fullmatch(value) or not value.isprintable():
        raise ValueError("an id, override or digest is malformed")
    return value
