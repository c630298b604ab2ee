"""Sweeps on the command line: print the plan, one line for every run, and the table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from fedhealth.config.capabilities import get_capability
from fedhealth.config.compose import compose_config
from fedhealth.config.quoting import quote_value
from fedhealth.errors import ConfigError, FedhealthError, SweepError
from fedhealth.experiment.run_spec import RunSpec, make_run_id
from fedhealth.experiment.sweep_plan import expand_sweep, get_guarantee
from fedhealth.experiment.sweep_reserve import get_run_id, release_reservation, reserve_sweep_budget
from fedhealth.runs.guarantee import sum_guarantees
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.atomic_io import write_json
from fedhealth.utils.json_model import parse_model
from fedhealth.utils.privacy_text import format_delta, format_guarantee, format_noise_multiplier, format_unit

PLAN = "multirun.yaml"  # written by Hydra into a sweep's folder
SEARCH = "search.json"  # how a search was started


@dataclass(frozen=True)
class _SearchCommand:
    """How a search was started, and where."""

    overrides: tuple[str, ...]
    config_dir: str
    cwd: str


class AbortHydra(BaseException):
    """Carry an error past Hydra, which would print all overrides of the command first; ends a sweep, too."""

    def __init__(self, fault: Exception) -> None:
        super().__init__(fault)
        self.fault = fault


class SweepCallback(Callback):
    """Hydra callback: print a sweep's runs and budget, and ask the hospitals to reserve the budget."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Print the plan and reserve the budget.

        Raises:
            AbortHydra: the hospitals decline, or several runs would be in them at once.

        """
        params, overrides = config.hydra.sweeper.get("params") or {}, config.hydra.overrides.task
        folder, config_dir = Path(config.hydra.sweep.dir), find_config_dir(config.hydra)
        try:
            runs = expand_sweep(list(overrides), dict(params), GlobalHydra.instance().config_loader())
            Console().print(f"{len(runs)} runs in {escape(str(folder))}", soft_wrap=True)
            specs = [RunSpec.compose(run, RunDir(folder / str(i)), config_dir) for i, run in enumerate(runs)]
            _check_workers(specs, int(config.hydra.launcher.get("n_jobs") or 1))
            reserve_budget(folder, specs)
        except FedhealthError as fault:
            raise AbortHydra(fault) from fault


def reserve_budget(folder: Path, specs: Sequence[RunSpec]) -> None:
    """Print the budget that the runs will spend, and ask the hospitals to reserve it.

    Raises:
        FederationError: too few hospitals reserve it; the message lists their reasons.

    """
    console = Console()
    asked = [promised for each in specs if (promised := get_guarantee(each.config))]
    if not asked:
        return
    together = "; ".join(
        format_guarantee(each.epsilon, each.delta, each.noise_multiplier, each.unit) for each in sum_guarantees(asked)
    )
    console.print(f"  {len(asked)} of them with differential privacy: together at most {together}", soft_wrap=True)
    with console.status("Asking the hospitals to reserve it"):
        reserved = reserve_sweep_budget(folder, specs)
    if reserved:
        delta, noise = min(each.delta for each in asked), min(each.noise_multiplier for each in asked)
        unit = " or ".join(sorted({format_unit(each.unit) for each in asked}))
        text = ", ".join(f"{site} {epsilon:.2f}" for site, epsilon in sorted(reserved.items()))
        line = (
            f"  reserved, the runs taken together: epsilon at delta {format_delta(delta)}: {escape(text)}; for each "
            f"{unit}, noise multiplier {format_noise_multiplier(noise)}"
        )
        console.print(line, soft_wrap=True, highlight=False)


def _check_workers(specs: Sequence[RunSpec], workers: int) -> None:
    """Refuse several runs at once in real hospitals, where their messages would alternate."""
    if workers == 1:
        return
    if not all(get_capability(spec.config.runtime, "data_are_local", default=False) for spec in specs):
        raise ConfigError(
            "Hospitals work on one run at a time.", "Add hydra.launcher.n_jobs=1, for a search sweep.workers=1."
        )


def find_config_dir(settings: Any) -> Path | None:
    """Return the additional folder of configuration files that the command names; None for none."""
    sources = settings.runtime.config_sources
    return next((Path(source.path) for source in sources if source.provider == "command-line"), None)


def add_sweep_dir(overrides: Sequence[str]) -> tuple[list[str], Path]:
    """Return the overrides, including the sweep's folder, and that folder."""
    named = [
        override.partition("=")[2].strip("'\"") for override in overrides if override.startswith("hydra.sweep.dir=")
    ]
    if named:
        return list(overrides), Path(named[-1])
    folder = Path("multirun") / datetime.now().strftime("%Y-%m-%d") / datetime.now().strftime("%H-%M-%S")
    return [*overrides, f"hydra.sweep.dir={quote_value(folder)}"], folder


def load_sweep_overrides(folder: Path) -> list[str]:
    """Return the overrides that a sweep was started with.

    Raises:
        ConfigError: it was started from another working directory, so relative paths would differ.

    """
    plan: Any = OmegaConf.load(folder / PLAN).hydra
    _check_working_dir(folder, plan.runtime.cwd)
    own = [source.path for source in plan.runtime.config_sources if source.provider == "command-line"]
    extra = [f"--config-dir={own[0]}"] if own else []
    set_here = ("hydra.sweep.dir=", "hydra.mode=")
    hydra = [override for override in plan.overrides.hydra if not override.startswith(set_here)]
    return [*extra, "--multirun", *plan.overrides.task, *hydra, f"hydra.sweep.dir={quote_value(folder)}"]


def run_job(config: DictConfig) -> None:
    """Run one job of a sweep and print its result in one line: several processes share the terminal."""
    from fedhealth.experiment.sweep_job import run_sweep_job

    settings = HydraConfig.get()
    overrides, run = tuple(settings.overrides.task), RunDir(Path(settings.runtime.output_dir))
    started = datetime.now()
    run_id = get_run_id(Path(settings.sweep.dir), int(settings.job.num)) or make_run_id()
    ended = run_sweep_job(RunSpec(config, overrides, run, find_config_dir(settings), run_id))
    shown = {"completed": "[green]done[/]", "kept": "[dim]kept[/]", "failed": "[red]failed[/]"}[ended.state]
    shared = {
        str(override).lower() for override in OmegaConf.load(Path(settings.sweep.dir) / PLAN).hydra.overrides.task
    }
    swept = [override for override in overrides if override.lower() not in shared]  # Hydra writes False for false
    result = ended.problem if ended.state == "failed" else _format_result(ended.validation)
    seconds = (datetime.now() - started).total_seconds()
    Console().print(
        f"{shown} {settings.job.num}: {escape(' '.join(swept))}  {escape(result)}  ({seconds:.0f} s)",
        soft_wrap=True,
        highlight=False,
    )


def run_search(spec: RunSpec) -> None:
    """Run the configured hyperparameter search in the run directory, then print its trials.

    Raises:
        ConfigError: the settings are invalid, or the search is already running.

    """
    from fedhealth.config.instantiate import instantiate

    folder, overrides, config_dir, console = spec.run_dir.path, spec.overrides, spec.config_dir, Console()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SEARCH, asdict(_SearchCommand(overrides, str(config_dir or ""), str(Path.cwd()))))
    own = [override for override in overrides if not override.partition("=")[0].lstrip("+~").startswith("sweep")]
    with RunDir(folder).lock():
        search = instantiate(spec.config.sweep)
        console.print(f"{search.trials} trials in {escape(str(folder))}", soft_wrap=True)
        base = compose_config(own, config_dir)
        dirs = [RunDir(folder / f"trial-{number}") for number in range(search.trials)]
        trials = [RunSpec(base, tuple(own), run_dir, config_dir) for run_dir in dirs]
        _check_workers(trials, search.workers)
        try:
            reserve_budget(folder, trials)
            search.run(own, folder, config_dir, lambda line: console.print(line, markup=False, soft_wrap=True))
        finally:
            release_reservation(folder)
    _print_comparison(folder)


def resume_search(folder: Path) -> None:
    """Resume a search.

    Raises:
        ConfigError: it was started from another working directory, or is already running.

    """
    path = folder / SEARCH
    command = parse_model(path.read_bytes(), _SearchCommand, str(path), "Start the search again.", ConfigError)
    _check_working_dir(folder, command.cwd)
    config_dir = Path(command.config_dir) if command.config_dir else None
    run_search(RunSpec.compose(command.overrides, RunDir(folder), config_dir))


def finish_sweep(folder: Path) -> None:
    """Print the sweep's table and write it into its folder.

    Raises:
        SweepError: some runs failed; the others are complete.

    """
    _print_comparison(folder)
    runs = [RunDir(path.parent) for path in sorted(folder.glob("*/run.json"))]
    if failed := [run.path.name for run in runs if run.info.state != "completed"]:
        raise SweepError(
            f"{len(failed)} of {len(runs)} runs did not complete: {', '.join(failed)}.",
            f"See their run.json; `fedhealth run resume={folder}` repeats them and keeps the others.",
        )


def _format_result(validation: float | None) -> str:
    return "validation AUROC not defined" if validation is None else f"validation AUROC {validation:.3f}"


def _check_working_dir(folder: Path, then: str) -> None:
    if then != str(Path.cwd()):
        raise ConfigError(f"The sweep in {folder} was started in {then}.", "Resume it from that directory.")


def _print_comparison(folder: Path) -> None:
    from fedhealth.cli.compare import run_compare

    run_compare([folder])
