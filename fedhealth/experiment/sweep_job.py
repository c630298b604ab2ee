"""One run of a sweep: start it, resume it, or keep its result if it is complete."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.experiment.launch import launch_run, resume_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.atomic_io import read_json, write_atomic

TRACEBACK = "traceback.txt"  # in a run directory: of an error that is a bug


@dataclass(frozen=True)
class SweepRunResult:
    """How a run of a sweep ended.

    Attributes:
        state: `completed`, `kept` (it was already complete) or `failed`.
        problem: why it failed.
        validation: the final model's pooled AUROC on validation rows, where it is defined; see `read_validation_auroc`.

    """

    state: str
    problem: str = ""
    validation: float | None = None


def run_sweep_job(spec: RunSpec) -> SweepRunResult:
    """Run or resume one run of a sweep; an error is recorded and does not stop the sweep.

    Args:
        spec: of the run; its directory may hold the same run, complete or not.

    """
    traceback_path = spec.run_dir.path / TRACEBACK
    try:
        state = _start_or_resume(spec)
    except FedhealthError as fault:
        _record_refusal(spec, fault)
        return SweepRunResult("failed", fault.problem)
    except Exception as fault:
        write_atomic(traceback_path, traceback.format_exc().encode())
        return SweepRunResult("failed", f"{type(fault).__name__}: {fault} (see {traceback_path})")
    return SweepRunResult(state, validation=read_validation_auroc(spec.run_dir))


def _record_refusal(spec: RunSpec, fault: FedhealthError) -> None:
    """Record why a run did not begin; the sweep's table and its resumption read it there."""
    if not spec.run_dir.exists:
        spec.run_dir.create(run=spec.run_id, overrides=spec.overrides)
        spec.run_dir.mark_failed(fault)


def read_validation_auroc(run: RunDir) -> float | None:
    """Return the final model's pooled AUROC on validation rows; None if it is unknown or undefined.

    With the noise of differential privacy it is the lower end of the interval, and 0 where the score is lost in the
    noise: a search must not prefer a run for its noise.
    """
    scores = (read_json(run.path / "evaluation.json") or {}).get("validation", {})
    if scores.get("noise"):
        return float(scores.get("auroc", {}).get("low") or 0.0)
    value = scores.get("auroc", {}).get("value")
    return None if value is None else float(value)


def _start_or_resume(spec: RunSpec) -> str:
    if spec.config.sweep is not None:
        raise ConfigError("A search is no run of a sweep.", "Start it without --multirun.")
    run, info = spec.run_dir, spec.run_dir.info
    if not info.digest:  # no run, or one that ended before its configuration was checked
        Path(run.path / "run.json").unlink(missing_ok=True)
        launch_run(spec)
        return "completed"
    if info.digest != spec.digest:
        overrides = " ".join(spec.overrides)
        raise ConfigError(f"{run.path} holds another run than {overrides}.", "Choose another hydra.sweep.dir.")
    if info.state == "completed":
        return "kept"
    resume_run(run)
    return "completed"
