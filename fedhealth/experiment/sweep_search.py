"""Hyperparameter search with Optuna (Akiba et al., KDD 2019): suggest, run, monitor, prune.

Each trial is an ordinary run in its own process; its event file reports the progress, for every runtime alike. The
study is a journal file beside the trials: a search that was killed resumes the trials that were running.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from fedhealth.errors import ConfigError
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.experiment.sweep_job import SweepRunResult, read_validation_auroc, run_sweep_job
from fedhealth.experiment.sweep_reserve import get_run_id
from fedhealth.experiment.sweep_space import Space, parse_space
from fedhealth.runs.run_dir import RunDir

_POLL_SECONDS = 0.2
_JOURNAL = "study.jsonl"
_FINISHED_STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

LineCallback = Callable[[str], None]
"""Called with a line about every trial that has ended."""


@dataclass
class _RunningTrial:
    """A running trial: its process, its directory, and the position up to which its events were read."""

    trial: Trial
    process: BaseProcess
    run: RunDir
    position: int = 0
    pruned: bool = False
    seen: set[int] = field(default_factory=set)


class HyperparameterSearch:
    """Maximise the pooled AUROC of the final model on validation rows; with noise, the lower end of its interval.

    Args:
        space: by configuration key, a list of options or a range `{low, high, log, step}`.
        trials: total number of runs, including those stopped early.
        workers: number of runs at the same time.
        startup: number of runs that are never stopped early.
        warmup: rounds before a run may be stopped early.
        seed: of the sampler.

    """

    def __init__(
        self,
        space: Mapping[str, Any],
        trials: int = 20,
        workers: int = 1,
        startup: int = 5,
        warmup: int = 2,
        seed: int = 0,
    ) -> None:
        self.space: Space = parse_space(space)
        if min(trials, workers) < 1:
            raise ConfigError("sweep: trials and workers must be at least 1.", "Correct them.")
        self.trials, self.workers = trials, workers
        self.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=workers > 1, n_startup_trials=startup)
        self.pruner = optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)

    def run(self, overrides: Sequence[str], folder: Path, config_dir: Path | None, on_end: LineCallback) -> None:
        """Start the search in `folder`, or resume it.

        Args:
            overrides: common to all trials.
            folder: of the study, with one directory for each trial.
            config_dir: an additional folder of configuration files; None for none.
            on_end: called with a line about every trial that has ended.

        """
        folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = self._study(folder)
        interrupted = [Trial(study, each._trial_id) for each in study.get_trials(states=[TrialState.RUNNING])]
        running: list[_RunningTrial] = []
        try:
            while running or interrupted or self._left(study) > 0:
                while len(running) < self.workers and (interrupted or self._left(study) > len(running)):
                    trial = interrupted.pop() if interrupted else study.ask(self.space)
                    running.append(self._begin(trial, overrides, folder, config_dir))
                for each in running:
                    self._follow(each)
                for each in [each for each in running if not each.process.is_alive()]:
                    running.remove(each)
                    on_end(_report_trial_end(study, each))
                time.sleep(_POLL_SECONDS)
        finally:
            for each in running:
                _interrupt_trial(each.process)

    def _study(self, folder: Path) -> optuna.Study:
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / _JOURNAL))),
            study_name="search",
            direction="maximize",
            sampler=self.sampler,
            pruner=self.pruner,
            load_if_exists=True,
        )

    def _left(self, study: optuna.Study) -> int:
        """Return how many trials are left to run."""
        return self.trials - len(study.get_trials(deepcopy=False, states=_FINISHED_STATES))

    def _begin(self, trial: Trial, overrides: Sequence[str], folder: Path, config_dir: Path | None) -> _RunningTrial:
        chosen = [*overrides, *(f"{key}={value}" for key, value in trial.params.items())]
        run = RunDir(folder / f"trial-{trial.number}")
        arguments = (chosen, run.path, config_dir, get_run_id(folder, trial.number))
        process = get_context("spawn").Process(target=_run_trial, args=arguments)
        process.start()
        return _RunningTrial(trial, process, run)

    def _follow(self, each: _RunningTrial) -> None:
        """Report every completed round to the study; stop a run that falls behind the median."""
        events, each.position = each.run.read_events(each.position)
        for number, auroc in _list_round_scores(events):
            if number not in each.seen:
                each.seen.add(number)
                each.trial.report(auroc, number)
        if each.seen and not each.pruned and each.trial.should_prune():
            each.pruned = True
            _interrupt_trial(each.process)


def _run_trial(overrides: list[str], folder: Path, config_dir: Path | None, run_id: str | None) -> None:
    """Run one trial in its own process."""
    with suppress(KeyboardInterrupt):  # stopped early: run.json records it
        run_sweep_job(RunSpec.compose(overrides, RunDir(folder), config_dir, run_id))


def _list_round_scores(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, float]]:
    """Yield (training rounds, pooled validation AUROC) of completed rounds."""
    for event in events:
        if event["event"] == "round_completed":
            value = (event["pooled"].get("validation") or {}).get("auroc")
            if value is not None:
                yield event["round"] - 1, float(value)


def _report_trial_end(study: optuna.Study, each: _RunningTrial) -> str:
    """Report the end of a trial to the study, and return it as a line of text."""
    outcome = _get_trial_result(each)
    value = outcome.validation
    state = {"completed": TrialState.COMPLETE, "stopped early": TrialState.PRUNED}.get(outcome.state, TrialState.FAIL)
    study.tell(each.trial, value if state is TrialState.COMPLETE else None, state)
    note = outcome.problem or ("" if value is None else f"validation AUROC {value:.3f}")
    parameters = " ".join(f"{key}={value}" for key, value in each.trial.params.items())
    return f"{outcome.state} {each.trial.number}: {parameters}  {note}".rstrip()


def _get_trial_result(each: _RunningTrial) -> SweepRunResult:
    about = each.run.info
    if about.state == "completed":
        value = read_validation_auroc(each.run)
        return (
            SweepRunResult("completed", validation=value)
            if value is not None
            else SweepRunResult("failed", "no validation score")
        )
    if each.pruned:
        return SweepRunResult("stopped early")
    problem = about.fault.problem or f"its process ended with code {each.process.exitcode}"
    return SweepRunResult("failed", problem)


def _interrupt_trial(process: BaseProcess) -> None:
    """Send SIGINT to a trial, which also stops its run in the hospitals."""
    if process.is_alive() and process.pid:
        os.kill(process.pid, signal.SIGINT)
        process.join()
