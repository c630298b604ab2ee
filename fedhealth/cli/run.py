"""`fedhealth run` and `fedhealth demo`: from overrides to a finished run directory, with live progress."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from fedhealth.api.progress import ProgressDisplay
from fedhealth.cli import sweep
from fedhealth.config.compose import (
    HYDRA_VERSION_BASE,
    check_group_options,
    explain_encoding,
    explain_hydra_error,
    get_conf_dir,
    read_choices,
    register_schema,
)
from fedhealth.config.explain_hydra import HYDRA_ERRORS
from fedhealth.config.quoting import quote_value
from fedhealth.errors import ConfigError
from fedhealth.experiment.launch import RUN_MODULES, launch_run, resume_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.experiment.sweep_reserve import release_reservation
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.import_modules import import_modules

_WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"}
_FOLDERS = ("hydra.run.dir=", "hydra.sweep.dir=")
DEMO_PATIENTS = 1000  # at a hospital of ordinary size: with fewer, the noise of private training is too large


def run_hydra(overrides: list[str]) -> None:
    """Pass the command line to Hydra, which composes one configuration (or several, with --multirun) and calls back.

    Raises:
        FedhealthError: any error of configuration, data, model or federation.
        SweepError: some runs of a sweep did not complete.

    """
    if named := [override.removeprefix("resume=") for override in overrides if override.startswith("resume=")]:
        folder = Path(named[0])
        if not (folder / sweep.PLAN).is_file():
            _resume_folder(overrides, folder)
            return
        _refuse_overrides(overrides, folder)
        overrides = sweep.load_sweep_overrides(folder)
    overrides, folder = sweep.add_sweep_dir(overrides)
    register_schema()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise exceptions: `explain_hydra_error` words them
    try:
        check_group_options([override for override in overrides if "=" in override and not override.startswith("-")])
        (_run_main if _has_hydra_settings(overrides) else _run_plain)(overrides)
    except sweep.AbortHydra as stop:
        raise stop.fault from None
    except UnicodeDecodeError as fault:
        raise explain_encoding(fault, find_config_dir_flag(overrides)) from fault
    except HYDRA_ERRORS as fault:
        chosen = [each for each in overrides if not each.startswith("-")]
        raise explain_hydra_error(fault, chosen, find_config_dir_flag(overrides)) from fault
    finally:
        release_reservation(folder)
    if (folder / sweep.PLAN).is_file():
        sweep.finish_sweep(folder)


def _has_hydra_settings(overrides: list[str]) -> bool:
    """Return whether there are flags, or settings of Hydra that are not just the folder of the results."""
    given = [each.lstrip("+~") for each in overrides if not each.startswith(_FOLDERS)]
    return any(each.startswith(("-", "hydra")) for each in given)


def _run_main(overrides: list[str]) -> None:
    """Call Hydra's main function."""
    sys.argv = ["fedhealth run", *put_flags_first(overrides)]
    hydra.main(version_base=HYDRA_VERSION_BASE, config_path=str(get_conf_dir()), config_name="config")(_run_composed)()


def _run_plain(overrides: list[str]) -> None:
    """Do what Hydra's main function does for overrides alone: it composes them once more before, for `hydra.mode`."""
    with hydra.initialize_config_dir(str(get_conf_dir()), job_name="fedhealth", version_base=HYDRA_VERSION_BASE):
        found = GlobalHydra.instance().hydra
        assert found is not None  # noqa: S101 - just initialized
        _ = found.run("config", partial(_run_composed, is_plain=True), overrides).return_value


def _resume_folder(overrides: list[str], folder: Path) -> None:
    """Resume the run or the search in `folder`, with the configuration it was started with."""
    _refuse_overrides(overrides, folder)
    if (folder / sweep.SEARCH).is_file():
        sweep.resume_search(folder)
    else:
        _show_progress(RunDir(folder), resume_run)


def _refuse_overrides(overrides: list[str], folder: Path) -> None:
    """Refuse overrides in addition to `resume=`."""
    if len(overrides) > 1:
        raise ConfigError(
            "A run is resumed with the configuration it was started with.",
            f"Use `fedhealth run resume={folder}` alone, or start a new run.",
        )


def put_flags_first(arguments: list[str]) -> list[str]:
    """Return the arguments with flags before overrides: Hydra's parser needs all overrides together."""
    flags, overrides, rest = [], [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in _WITH_VALUE and rest:
            flags.append(rest.pop(0))
    return [*flags, *overrides]


def find_config_dir_flag(arguments: Sequence[str]) -> Path | None:
    """Return the folder that `--config-dir` names; None without it."""
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = flag.partition("=")
        if name in ("--config-dir", "-cd"):
            return Path(value if equals else following)
    return None


def run_demo(folder: Path, seed: int, overrides: Sequence[str] = ()) -> None:
    """Write the synthetic hospitals below `folder` and run `experiment=demo_shared` on them, with `overrides`."""
    from fedhealth.experiment.warm_workers import prepare_workers

    console = Console()
    hospitals = folder / "hospitals"
    demo = [
        "experiment=demo_shared",
        f"seed={seed}",
        f"data.root={quote_value(hospitals)}",
        f"data.cache={quote_value(folder / 'cache')}",
        *overrides,
    ]
    spec = RunSpec.compose(demo, _make_run_dir(folder))  # reports a misspelt override before anything is written
    prepare_workers(spec.settings, spec.plain)
    with console.status(f"Writing four synthetic hospitals to {hospitals}"):
        shutil.rmtree(hospitals, ignore_errors=True)
        _write_hospitals(hospitals, seed)
    launch_with_progress(spec)


def _write_hospitals(root: Path, seed: int) -> None:
    """Write the demo's hospitals, two at a time."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from fedhealth.data.synthetic.hospitals import HOSPITALS, write_hospital

    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        write = partial(write_hospital, root, seed=seed, patients=DEMO_PATIENTS)
        list(pool.map(write, range(len(HOSPITALS))))


def compose_run(overrides: list[str], folder: Path) -> RunSpec:
    """Return the run that the overrides describe, with a new directory below `folder`, named by the time."""
    return RunSpec.compose(overrides, _make_run_dir(folder))


def _make_run_dir(folder: Path) -> RunDir:
    return RunDir(folder / datetime.now().strftime("%Y%m%d-%H%M%S"))


def _run_composed(config: DictConfig, is_plain: bool = False) -> None:
    """Run one composed configuration in the directory that Hydra created for it.

    Args:
        config: composed.
        is_plain: whether a job with its overrides composes to the same, because nothing else was given.

    """
    settings = HydraConfig.get()
    if settings.mode is RunMode.MULTIRUN:
        sweep.run_job(config)
        return
    run_dir, config_dir = RunDir(Path(settings.runtime.output_dir)), sweep.find_config_dir(settings)
    chosen = read_choices(settings) if is_plain else None
    spec = RunSpec(config, tuple(settings.overrides.task), run_dir, config_dir, chosen=chosen)
    try:
        if config.sweep:
            sweep.run_search(spec)
        else:
            launch_with_progress(spec)
    except Exception as fault:  # Hydra would print lines of its own about it
        raise sweep.AbortHydra(fault) from fault


def launch_with_progress(spec: RunSpec) -> None:
    """Launch a run with live progress, and print where its report is."""
    import_modules(RUN_MODULES)
    spec.run_dir.vacate()  # else the lines of an earlier run would be shown
    _show_progress(spec.run_dir, lambda _: launch_run(spec))


def _show_progress(run: RunDir, work: Callable[[RunDir], None]) -> None:
    """Call `work` with live progress, then print the report's address."""
    logging.captureWarnings(True)
    console = Console()
    with ProgressDisplay(run, console):
        work(run)
    console.print(f"Report: {(run.path / 'report.html').resolve().as_uri()}", soft_wrap=True)
