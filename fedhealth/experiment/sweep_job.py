"""One run of a sweep: begun, continued, or left alone where it is complete."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from fedhealth.config.compose import digest
from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.experiment.launch import launch, resume
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.atomic_io import read_json, write_atomic

TRACEBACK = "traceback.txt"  # in a run directory: of a fault that is no user's


@dataclass(frozen=True)
class Outcome:
    """How a run of a sweep ended.

    Attributes:
        state: `completed`, `kept` (it was complete already) or `failed`.
        problem: why it failed.
        validation: the final model's pooled AUROC on validation rows, where it is defined.

    """

    state: str
    problem: str = ""
    validation: float | None = None


def work_on(
    config: DictConfig, words: Sequence[str], run: RunDir, config_dir: str = "", name: str | None = None
) -> Outcome:
    """Bring a run to its end; a fault is written down and does not stop the sweep.

    Args:
        config: composed from `words`.
        words: the override words of this run.
        run: its directory; may hold the same run, complete or not.
        config_dir: a further folder of configuration files, empty for none.
        name: the id chosen for the run; None for a new one.

    """
    try:
        state = _finish(config, words, run, config_dir, name)
    except FedhealthError as fault:
        return Outcome("failed", fault.problem)
    except Exception as fault:
        write_atomic(run.path / TRACEBACK, traceback.format_exc().encode())
        return Outcome("failed", f"{type(fault).__name__}: {fault} (see {run.path / TRACEBACK})")
    return Outcome(state, validation=validation_of(run))


def validation_of(run: RunDir) -> float | None:
    """Return the final model's pooled AUROC on validation rows; None where it is not known or not defined."""
    scores = (read_json(run.path / "evaluation.json") or {}).get("validation", {})
    value = scores.get("auroc", {}).get("value")
    return None if value is None else float(value)


def _finish(config: DictConfig, words: Sequence[str], run: RunDir, config_dir: str, name: str | None) -> str:
    if config.sweep is not None:
        raise ConfigError("A search is no run of a sweep.", "Start it without --multirun.")
    about = run.about
    if "digest" not in about:  # nothing, or a run that ended before it was checked
        Path(run.path / "run.json").unlink(missing_ok=True)
        launch(config, words, run, config_dir, name)
        return "completed"
    if about["digest"] != digest(config):
        raise ConfigError(f"{run.path} holds another run than {' '.join(words)}.", "Choose another hydra.sweep.dir.")
    if about["state"] == "completed":
        return "kept"
    resume(run)
    return "completed"
