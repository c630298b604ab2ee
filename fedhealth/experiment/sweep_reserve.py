"""Before a sweep's first run: state what all of them will spend, and have every hospital reserve it or say why not.

The ids of the runs are chosen beforehand, so that a hospital knows a run of the sweep by its signed order. When the
sweep ends, what it did not use is given back; where it is killed, the reservation lapses.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fedhealth.config.compose import compose
from fedhealth.config.method_consistency import check_halves
from fedhealth.config.validate import validate
from fedhealth.errors import ConfigError, FederationError, FedhealthError
from fedhealth.experiment.launch import new_id, planned, reserve
from fedhealth.experiment.sweep_plan import epsilon_of
from fedhealth.protocol.budget_request import Statement
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.atomic_io import read_json, write_json

IDENTITIES = "sweep.json"  # in a sweep's folder: its id and its runs', and how it asked for a reservation
ASKED = Path("budget") / "reservation"  # below it: the last question to the hospitals

log = logging.getLogger("fedhealth.lead")


@dataclass(frozen=True)
class Candidate:
    """A run of a sweep: its configuration, the words that it is composed from, and its directory."""

    config: DictConfig
    words: Sequence[str]
    run: RunDir


def run_id(folder: Path, number: int) -> str | None:
    """Return the id chosen for a run of the sweep in `folder`; None where none was."""
    runs = (read_json(folder / IDENTITIES) or {}).get("runs", [])
    return str(runs[number]) if number < len(runs) else None


def state_and_reserve(folder: Path, candidates: Sequence[Candidate], config_dir: str) -> dict[str, float]:
    """State what the runs will spend; return, by hospital, the epsilon of all that are still to come together.

    Args:
        folder: the sweep's.
        candidates: all its runs, in order.
        config_dir: a further folder of configuration files, empty for none.

    Returns:
        Nothing where no run to come has a budget.

    Raises:
        FederationError: too few hospitals reserve it; nothing stays reserved.

    """
    about = _identities(folder, len(candidates))
    to_come = [
        (name, each) for name, each in zip(about["runs"], candidates, strict=False) if _is_to_come(each, config_dir)
    ]
    if not to_come:
        return {}
    epsilon = sum(epsilon_of(each.config) or 0.0 for _, each in to_come)
    runs = tuple(planned(name, each.config, each.words) for name, each in to_come)
    first = to_come[0][1]
    write_json(folder / IDENTITIES, {**about, "asked": {"words": list(first.words), "config_dir": config_dir}})
    statement = Statement(about["sweep"], epsilon, runs)
    try:
        return reserve(statement, first.config, first.words, RunDir(folder / ASKED), config_dir)
    except FederationError as fault:
        give_back(folder)
        raise FederationError(
            f"The sweep was declined before its first run. {fault.problem}",
            "Ask for fewer runs or a smaller privacy.epsilon; `fedhealth site budget` shows a hospital what is spent.",
        ) from fault


def give_back(folder: Path) -> None:
    """Tell the hospitals that nothing is kept for the sweep any more; who does not hear it lets it lapse."""
    about = read_json(folder / IDENTITIES) or {}
    if not about.get("asked"):
        return
    asked = about["asked"]
    try:
        config = compose(asked["words"], Path(asked["config_dir"]) if asked["config_dir"] else None)
        nothing = Statement(about["sweep"], 0.0, ())
        reserve(nothing, config, asked["words"], RunDir(folder / ASKED), asked["config_dir"])
    except FedhealthError as fault:
        log.warning("the reservation is not given back, it lapses: %s", fault)
    write_json(folder / IDENTITIES, {**about, "asked": None})


def _identities(folder: Path, count: int) -> dict[str, Any]:
    """Return the sweep's id and those of its runs, made at the first call and kept."""
    about = read_json(folder / IDENTITIES) or {"sweep": new_id(), "runs": [], "asked": None}
    about["runs"] += [new_id() for _ in range(count - len(about["runs"]))]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / IDENTITIES, about)
    return dict(about)


def _is_to_come(candidate: Candidate, config_dir: str) -> bool:
    """Tell whether a run has a budget, can start and is not complete; what cannot start says so when it is tried."""
    if epsilon_of(candidate.config) is None or candidate.run.about.get("state") == "completed":
        return False
    with suppress(ConfigError):
        validate(candidate.config)
        check_halves(candidate.words, Path(config_dir) if config_dir else None)
        return True
    return False
