"""`fedhealth audit`: is the private training as private as it claims?"""

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


def run_audit(level: str, words: list[str]) -> None:
    """Audit a finished run (given by its folder) or a configuration (given by override words).

    Raises:
        ConfigError: an unknown level, or a folder without a run.
        PrivacyError: something was found.

    """
    from fedhealth.experiment.privacy_audit import audit, lines, write
    from fedhealth.report.render import render

    if level not in _LEVELS:
        raise ConfigError(f"There is no audit {level!r}.", f"Use {' or '.join(_LEVELS)}.")
    run = RunDir(Path(words[0])) if words and Path(words[0]).is_dir() else None
    config, final = _subject(words, run)
    console, results = Console(), []
    for result in audit(config, cast(Literal["quick", "standard"], level), run, final):
        results.append(result)
        for line in lines(result):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if run is not None:
        write(run, results)
        write_atomic(run.path / "report.html", render(run.path).encode())
    if found := [result.site for result in results if not result.passed]:
        raise PrivacyError(f"The audit found something at {', '.join(found)}.", "Do not train with this configuration.")


def _subject(words: list[str], run: RunDir | None) -> tuple[Config, State | None]:
    """Return the configuration to audit, and the run's final model where there is one."""
    from omegaconf import OmegaConf
    from safetensors.numpy import load_file

    from fedhealth.config.compose import compose
    from fedhealth.config.schema import Config

    if run is not None and not run.about:
        raise ConfigError(f"{run.path} holds no run.", "Give a run directory, or override words.")
    composed = compose(run.about["words"] if run else words)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)  # noqa: S101 - the schema's root
    model = run.path / "model.safetensors" if run else None
    return config, load_file(model) if model and model.is_file() else None
