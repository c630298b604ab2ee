"""`fedhealth run` and `fedhealth demo`: from words to a finished run directory, with live progress."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from fedhealth.cli import sweep
from fedhealth.cli.progress import Display
from fedhealth.config.compose import (
    FAULTS,
    HYDRA_VERSION_BASE,
    check_options,
    compose,
    conf_dir,
    explain,
    quoted,
    register_schema,
)
from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.experiment.launch import launch, resume
from fedhealth.experiment.sweep_reserve import give_back
from fedhealth.runs.run_dir import RunDir

_WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"}
DEMO_PATIENTS = 1000  # at a hospital of ordinary size: the noise of private training drowns what fewer teach


def run_hydra(words: list[str]) -> None:
    """Hand the command line to Hydra, which composes one configuration (or many, with --multirun) and calls us.

    Raises:
        FedhealthError: any fault of configuration, data, model or federation.
        SweepError: some of many runs did not complete.

    """
    if named := [word.removeprefix("resume=") for word in words if word.startswith("resume=")]:
        folder = Path(named[0])
        if not (folder / sweep.PLAN).is_file():
            _resume(words, folder)
            return
        _alone(words, folder)
        words = sweep.words_of(folder)
    words, folder = sweep.folder_of(words)
    register_schema()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through: we say what they mean
    sys.argv = ["fedhealth run", *flags_first(words)]
    app = hydra.main(version_base=HYDRA_VERSION_BASE, config_path=str(conf_dir()), config_name="config")(_job)
    try:
        check_options([word for word in words if "=" in word and not word.startswith("-")])
        app()
    except sweep.Stop as stop:
        raise stop.fault from None
    except FAULTS as fault:
        raise explain(fault) from fault
    finally:
        give_back(folder)
    if (folder / sweep.PLAN).is_file():
        sweep.conclude(folder)


def _resume(words: list[str], folder: Path) -> None:
    """Go on with the run or the search in `folder`, under the configuration it was started with."""
    _alone(words, folder)
    if (folder / sweep.SEARCH).is_file():
        sweep.resume_search(folder)
    else:
        _shown(RunDir(folder), resume)


def _alone(words: list[str], folder: Path) -> None:
    """Refuse words beside `resume=`."""
    if len(words) > 1:
        raise ConfigError(
            "A run goes on with the configuration it was started with.",
            f"Use `fedhealth run resume={folder}` alone, or start a new run.",
        )


def flags_first(words: list[str]) -> list[str]:
    """Return the words with options before overrides: Hydra's parser takes the overrides in one piece only."""
    flags, overrides, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        if word in _WITH_VALUE and rest:
            flags.append(rest.pop(0))
    return [*flags, *overrides]


def run_demo(folder: Path, seed: int, overrides: Sequence[str] = ()) -> None:
    """Write the synthetic hospitals below `folder`, run `experiment=demo` on them, with `overrides`."""
    from fedhealth.data.synthetic import write_hospitals

    console = Console()
    hospitals = folder / "hospitals"
    words = [
        "experiment=demo",
        f"seed={seed}",
        f"data.root={quoted(hospitals)}",
        f"data.cache={quoted(folder / 'cache')}",
        *overrides,
    ]
    config = compose(words)  # a misspelt word is told before anything is written
    with console.status(f"Writing four synthetic hospitals to {hospitals}"):
        shutil.rmtree(hospitals, ignore_errors=True)
        write_hospitals(hospitals, seed=seed, patients=DEMO_PATIENTS)
    _run(config, words, _stamped(folder), "")


def run_words(words: list[str], folder: Path) -> None:
    """Run what the words compose to, in a new directory below `folder` named by the time."""
    _run(compose(words), words, _stamped(folder), "")


def _stamped(folder: Path) -> Path:
    return folder / datetime.now().strftime("%Y%m%d-%H%M%S")


def _job(config: DictConfig) -> None:
    """Run one composed configuration in the directory that Hydra made for it."""
    settings = HydraConfig.get()
    if settings.mode is RunMode.MULTIRUN:
        sweep.run_job(config)
        return
    own = settings.runtime.config_sources
    extra = next((source.path for source in own if source.provider == "command-line"), "")
    work = sweep.run_search if config.sweep else _run
    try:
        work(config, list(settings.overrides.task), Path(settings.runtime.output_dir), extra)
    except FedhealthError as fault:
        raise sweep.Stop(fault) from fault


def _run(config: DictConfig, words: list[str], folder: Path, config_dir: str) -> None:
    _shown(RunDir(folder), lambda run: launch(config, words, run, config_dir))


def _shown(run: RunDir, work: Callable[[RunDir], None]) -> None:
    """Do the work with live progress, then say where the report is."""
    logging.captureWarnings(True)
    console = Console()
    with Display(run, console):
        work(run)
    console.print(f"Report: {(run.path / 'report.html').resolve().as_uri()}", soft_wrap=True)
