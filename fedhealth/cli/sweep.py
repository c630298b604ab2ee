"""Sweeps on the command line: what is planned, a line for every run, and the table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from fedhealth.config.compose import compose, quoted
from fedhealth.config.warnings import in_hospitals
from fedhealth.errors import ConfigError, FedhealthError, SweepError
from fedhealth.experiment.sweep_plan import epsilon_of, planned
from fedhealth.experiment.sweep_reserve import Candidate, give_back, run_id, state_and_reserve
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.atomic_io import read_json, write_json

PLAN = "multirun.yaml"  # what Hydra leaves in a sweep's folder
SEARCH = "search.json"  # what a search was started with


class Stop(BaseException):
    """Carries a fault past Hydra, which would first print every word of the command; it ends a sweep too."""

    def __init__(self, fault: FedhealthError) -> None:
        super().__init__(fault)
        self.fault = fault


class Announcement(Callback):
    """Says what a sweep will run and spend, and has the hospitals reserve it; Hydra calls it."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Print it, and ask for it.

        Raises:
            Stop: the hospitals decline, or several runs would be in them at once.

        """
        params, words = config.hydra.sweeper.get("params") or {}, config.hydra.overrides.task
        folder, extra = Path(config.hydra.sweep.dir), _own_folder(config.hydra)
        try:
            runs = planned(list(words), dict(params), GlobalHydra.instance().config_loader())
            Console().print(f"{len(runs)} runs in {escape(str(folder))}", soft_wrap=True)
            own = Path(extra) if extra else None
            candidates = [Candidate(compose(run, own), run, RunDir(folder / str(i))) for i, run in enumerate(runs)]
            _check_workers(candidates, int(config.hydra.launcher.get("n_jobs") or 1))
            reserve(folder, candidates, extra)
        except FedhealthError as fault:
            raise Stop(fault) from fault


def reserve(folder: Path, candidates: Sequence[Candidate], config_dir: str) -> None:
    """Say what the runs will spend, and have the hospitals reserve it.

    Raises:
        FederationError: too few of them do, with their reasons.

    """
    console = Console()
    asked = [spent for each in candidates if (spent := epsilon_of(each.config)) is not None]
    if not asked:
        return
    console.print(
        f"  {len(asked)} of them with differential privacy: together at most epsilon {sum(asked):g} "
        "for each person they protect",
        soft_wrap=True,
    )
    with console.status("Asking the hospitals to reserve it"):
        kept = state_and_reserve(folder, candidates, config_dir)
    if kept:
        told = ", ".join(f"{site} {epsilon:.2f}" for site, epsilon in sorted(kept.items()))
        console.print(f"  reserved, the runs taken together: epsilon {escape(told)}", soft_wrap=True, highlight=False)


def _check_workers(candidates: Sequence[Candidate], workers: int) -> None:
    """Refuse several runs at once where they would take turns in the same hospitals, message by message."""
    if workers != 1 and any(in_hospitals(each.config) for each in candidates):
        raise ConfigError(
            "Hospitals work on one run at a time.", "Add hydra.launcher.n_jobs=1, for a search sweep.workers=1."
        )


def _own_folder(settings: Any) -> str:
    """Return the further folder of configuration files that the command names, empty for none."""
    return next((source.path for source in settings.runtime.config_sources if source.provider == "command-line"), "")


def folder_of(words: Sequence[str]) -> tuple[list[str], Path]:
    """Return the words with a sweep's folder among them, and that folder."""
    named = [word.partition("=")[2].strip("'\"") for word in words if word.startswith("hydra.sweep.dir=")]
    if named:
        return list(words), Path(named[-1])
    folder = Path("multirun") / datetime.now().strftime("%Y-%m-%d") / datetime.now().strftime("%H-%M-%S")
    return [*words, f"hydra.sweep.dir={quoted(folder)}"], folder


def words_of(folder: Path) -> list[str]:
    """Return the words that a sweep was started with.

    Raises:
        ConfigError: it was started from another working directory, where its words may mean something else.

    """
    plan: Any = OmegaConf.load(folder / PLAN).hydra
    _same_place(folder, plan.runtime.cwd)
    own = [source.path for source in plan.runtime.config_sources if source.provider == "command-line"]
    extra = [f"--config-dir={own[0]}"] if own else []
    set_here = ("hydra.sweep.dir=", "hydra.mode=")
    hydra = [word for word in plan.overrides.hydra if not word.startswith(set_here)]
    return [*extra, "--multirun", *plan.overrides.task, *hydra, f"hydra.sweep.dir={quoted(folder)}"]


def run_job(config: DictConfig) -> None:
    """Do one run of a sweep and say how it ended, in one line: several processes share the terminal."""
    from fedhealth.experiment.sweep_job import work_on

    settings = HydraConfig.get()
    words, run = list(settings.overrides.task), RunDir(Path(settings.runtime.output_dir))
    begun = datetime.now()
    name = run_id(Path(settings.sweep.dir), int(settings.job.num))
    ended = work_on(config, words, run, _own_folder(settings), name)
    shown = {"completed": "[green]done[/]", "kept": "[dim]kept[/]", "failed": "[red]failed[/]"}[ended.state]
    shared = {str(word).lower() for word in OmegaConf.load(Path(settings.sweep.dir) / PLAN).hydra.overrides.task}
    swept = [word for word in words if word.lower() not in shared]  # Hydra writes False for false
    result = ended.problem if ended.state == "failed" else _result(ended.validation)
    seconds = (datetime.now() - begun).total_seconds()
    Console().print(
        f"{shown} {settings.job.num}: {escape(' '.join(swept))}  {escape(result)}  ({seconds:.0f} s)",
        soft_wrap=True,
        highlight=False,
    )


def run_search(config: DictConfig, words: Sequence[str], folder: Path, config_dir: str) -> None:
    """Let the configured search run its trials below `folder`, then show them.

    Raises:
        ConfigError: its settings are no search, or it is running.

    """
    from fedhealth.config.instantiate import instantiate

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SEARCH, {"words": list(words), "config_dir": config_dir, "cwd": str(Path.cwd())})
    own = [word for word in words if not word.partition("=")[0].lstrip("+~").startswith("sweep")]
    console = Console()
    with RunDir(folder).held():
        search = instantiate(config.sweep)
        console.print(f"{search.trials} trials in {escape(str(folder))}", soft_wrap=True)
        base = compose(own, Path(config_dir) if config_dir else None)
        trials = [Candidate(base, own, RunDir(folder / f"trial-{number}")) for number in range(search.trials)]
        _check_workers(trials, search.workers)
        try:
            reserve(folder, trials, config_dir)
            search.run(own, folder, config_dir, lambda line: console.print(line, markup=False, soft_wrap=True))
        finally:
            give_back(folder)
    _show(folder)


def resume_search(folder: Path) -> None:
    """Go on with a search.

    Raises:
        ConfigError: it was started from another working directory, or is running.

    """
    begun = read_json(folder / SEARCH)
    _same_place(folder, begun["cwd"])
    config = compose(begun["words"], Path(begun["config_dir"]) if begun["config_dir"] else None)
    run_search(config, begun["words"], folder, begun["config_dir"])


def conclude(folder: Path) -> None:
    """Show the sweep's table and leave it in its folder.

    Raises:
        SweepError: some runs failed; the others are complete.

    """
    _show(folder)
    runs = [RunDir(path.parent) for path in sorted(folder.glob("*/run.json"))]
    if failed := [run.path.name for run in runs if run.about.get("state") != "completed"]:
        raise SweepError(
            f"{len(failed)} of {len(runs)} runs did not complete: {', '.join(failed)}.",
            f"See their run.json; `fedhealth run resume={folder}` does them again and leaves the others.",
        )


def _result(validation: float | None) -> str:
    return "validation AUROC not defined" if validation is None else f"validation AUROC {validation:.3f}"


def _same_place(folder: Path, then: str) -> None:
    if then != str(Path.cwd()):
        raise ConfigError(f"The sweep in {folder} was started in {then}.", "Go on with it from that directory.")


def _show(folder: Path) -> None:
    from fedhealth.cli.compare import run_compare

    run_compare([folder], None)
