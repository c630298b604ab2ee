"""Before a sweep's first run: announce the budget of all its runs; every hospital reserves it or declines with reasons.

The ids of the runs are chosen beforehand, so that a hospital recognises a run of the sweep by its signed job. When the
sweep ends, the unused reservation is released; if the sweep is killed, the reservation expires.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fedhealth.errors import ConfigError, FederationError, FedhealthError
from fedhealth.experiment.launch import request_reservation
from fedhealth.experiment.run_spec import RunSpec, make_run_id
from fedhealth.experiment.sweep_plan import get_guarantee
from fedhealth.protocol.budget_request import BudgetRequest
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.atomic_io import write_json
from fedhealth.utils.json_model import read_model

SWEEP_IDS = "sweep.json"  # in a sweep's folder: the ids of the sweep and of its runs, and its pending reservation
RESERVATION_DIR = Path("budget") / "reservation"  # in a sweep's folder: run directory of the last budget request

log = logging.getLogger("fedhealth.lead")


@dataclass(frozen=True)
class _Request:
    """The run by which the hospitals are asked: its overrides, and its additional folder of configuration files."""

    overrides: tuple[str, ...]
    config_dir: str


@dataclass(frozen=True)
class _SweepIds:
    """The ids of a sweep and of its runs, and its pending reservation."""

    sweep: str
    runs: tuple[str, ...]
    request: _Request | None


def get_run_id(folder: Path, number: int) -> str | None:
    """Return the id that was chosen for a run of the sweep in `folder`; None if there is none."""
    ids = _load_ids(folder)
    return ids.runs[number] if ids and number < len(ids.runs) else None


def reserve_sweep_budget(folder: Path, specs: Sequence[RunSpec]) -> dict[str, float]:
    """Ask the hospitals to reserve the budget of all pending runs; return, by hospital, their joint epsilon.

    Args:
        folder: of the sweep.
        specs: of all its runs, in order.

    Returns:
        An empty dict if no pending run spends a budget.

    Raises:
        FederationError: too few hospitals reserve the budget; nothing stays reserved.

    """
    ids = _load_or_create_ids(folder, len(specs))
    pending = [replace(spec, run_id=i) for i, spec in zip(ids.runs, specs, strict=False) if _is_pending(spec)]
    if not pending:
        return {}
    epsilon = sum(each.epsilon for spec in pending if (each := get_guarantee(spec.config)))
    budget_request = BudgetRequest(ids.sweep, epsilon, tuple(spec.planned_run for spec in pending))
    first = replace(pending[0], run_dir=RunDir(folder / RESERVATION_DIR), run_id=make_run_id())
    _save_ids(folder, replace(ids, request=_Request(first.overrides, str(first.config_dir or ""))))
    try:
        return request_reservation(budget_request, first)
    except FederationError as fault:
        release_reservation(folder)
        raise FederationError(
            f"The sweep was declined before its first run. {fault.problem}",
            "Ask for fewer runs or a smaller privacy.epsilon; `fedhealth site budget` shows a hospital what is spent.",
        ) from fault


def release_reservation(folder: Path) -> None:
    """Tell the hospitals to release the sweep's reservation; where the message does not arrive, it expires."""
    ids = _load_ids(folder)
    if ids is None or ids.request is None:
        return
    try:
        config_dir = Path(ids.request.config_dir) if ids.request.config_dir else None
        spec = RunSpec.compose(ids.request.overrides, RunDir(folder / RESERVATION_DIR), config_dir)
        request_reservation(BudgetRequest(ids.sweep, 0.0, ()), spec)
    except FedhealthError as fault:
        log.warning("the reservation could not be released, it will expire: %s", fault)
    _save_ids(folder, replace(ids, request=None))


def _load_or_create_ids(folder: Path, count: int) -> _SweepIds:
    """Return the ids of the sweep and of its runs; they are created at the first call and stored."""
    ids = _load_ids(folder) or _SweepIds(make_run_id(), (), None)
    more = tuple(make_run_id() for _ in range(count - len(ids.runs)))
    ids = replace(ids, runs=(*ids.runs, *more))
    folder.mkdir(parents=True, exist_ok=True)
    _save_ids(folder, ids)
    return ids


def _load_ids(folder: Path) -> _SweepIds | None:
    """Return the ids of a sweep; None where nothing was announced."""
    return read_model(folder / SWEEP_IDS, _SweepIds, "Restore it from a backup, or start the sweep again.", ConfigError)


def _save_ids(folder: Path, ids: _SweepIds) -> None:
    write_json(folder / SWEEP_IDS, asdict(ids))


def _is_pending(spec: RunSpec) -> bool:
    """Return whether a run spends a budget, is valid and is not complete; an invalid run reports its error later."""
    if get_guarantee(spec.config) is None or spec.run_dir.info.state == "completed":
        return False
    with suppress(ConfigError):
        spec.check()
        return True
    return False
