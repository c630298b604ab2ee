"""A sweep's budget request, sent before its first run: its private runs and the total epsilon that they may spend."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from fedhealth.utils.json_model import Sha256, match_form

MAX_RUNS = 1000
MAX_OVERRIDES = 200  # of one run
_OVERRIDE = re.compile(r".{1,1000}")


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable characters")
    return text


def _check_runs(runs: tuple[PlannedRun, ...]) -> tuple[PlannedRun, ...]:
    if len({planned.run for planned in runs}) < len(runs):
        raise ValueError("a run is named twice")
    return runs


RunId = Annotated[str, match_form(re.compile(r"[a-z0-9]{8,40}", re.ASCII), "8 to 40 lower case letters and digits")]
_Override = Annotated[str, match_form(_OVERRIDE, "1 to 1000 characters"), AfterValidator(_check_printable)]
Overrides = Annotated[tuple[_Override, ...], Field(max_length=MAX_OVERRIDES)]


@dataclass(frozen=True)
class PlannedRun:
    """A planned run: its id, its overrides as in `fedhealth.protocol.job.Job`, and the digest of its configuration."""

    run: RunId
    overrides: Overrides
    digest: Sha256


@dataclass(frozen=True)
class BudgetRequest:
    """A request to every site to reserve budget for the runs of a sweep.

    Attributes:
        sweep: its id, the same after a restart.
        epsilon: maximum that its runs spend together, for each protected person.
        runs: those that have not started; an empty request releases the reservation.

    """

    sweep: RunId
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    runs: Annotated[tuple[PlannedRun, ...], Field(max_length=MAX_RUNS), AfterValidator(_check_runs)]
