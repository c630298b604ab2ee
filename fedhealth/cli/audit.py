"""`fedhealth audit`: does private training keep its privacy guarantee?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from rich.console import Console

from fedhealth.errors import ConfigError, PrivacyError
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.atomic_io import write_atomic

if TYPE_CHECKING:
    from fedhealth.config.schema import Config
    from fedhealth.types import State

_LEVELS = ("quick", "standard")


def run_audit(level: str, overrides: list[str]) -> None:
    """Audit a finished run, given by its folder, or a configuration, given by overrides.

    Raises:
        ConfigError: the level is unknown, or the folder holds no run.
        PrivacyError: a check failed.

    """
    from fedhealth.experiment.privacy_audit import audit_sites, describe_failures, format_audit, write_audit
    from fedhealth.report.render import render_run_report

    if level not in _LEVELS:
        raise ConfigError(f"There is no audit {level!r}.", f"Use {' or '.join(_LEVELS)}.")
    run = RunDir(Path(overrides[0])) if overrides and Path(overrides[0]).is_dir() else None
    config, final = _load_audit_subject(overrides, run)
    console, results = Console(), []
    for result in audit_sites(config, cast(Literal["quick", "standard"], level), run, final):
        results.append(result)
        for line in format_audit(result):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if run is not None:
        write_audit(run, results)
        write_atomic(run.path / "report.html", render_run_report(run.path).encode())
    if found := [describe_failures(result) for result in results if not result.has_passed]:
        raise PrivacyError(f"The audit failed: {'; '.join(found)}.", "Do not train with this configuration.")


def _load_audit_subject(overrides: list[str], run: RunDir | None) -> tuple[Config, State | None]:
    """Return the configuration to audit, and the run's final model if there is one."""
    from omegaconf import OmegaConf
    from safetensors.numpy import load_file

    from fedhealth.config.compose import compose_config
    from fedhealth.config.schema import Config

    if run is not None and not run.exists:
        raise ConfigError(f"{run.path} holds no run.", "Give a run directory, or overrides.")
    named = run.info.config_dir if run else ""
    composed = compose_config(run.info.overrides if run else overrides, Path(named) if named else None)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)  # noqa: S101 - the schema's root
    model = run.path / "model.safetensors" if run else None
    return config, load_file(model) if model and model.is_file() else None
