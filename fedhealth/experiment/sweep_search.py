"""Look for a better configuration with Optuna (Akiba et al., KDD 2019): suggest, run, follow, stop what falls behind.

Each trial is an ordinary run in a process of its own; its event file says how it fares, the same for every runtime. The
study is a journal beside the trials: a search that was killed goes on with the trials that were running.
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

from fedhealth.config.compose import compose
from fedhealth.errors import ConfigError
from fedhealth.experiment.sweep_job import Outcome, validation_of, work_on
from fedhealth.experiment.sweep_reserve import run_id
from fedhealth.experiment.sweep_space import Space, parse
from fedhealth.runs.run_dir import RunDir

_LOOK_SECONDS = 0.2
_JOURNAL = "study.jsonl"
_TRIED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

Told = Callable[[str], None]
"""Called with a line about every trial that ended."""


@dataclass
class _Running:
    """A trial under way: its process, its directory, and how far its events were read."""

    trial: Trial
    process: BaseProcess
    run: RunDir
    position: int = 0
    pruned: bool = False
    seen: set[int] = field(default_factory=set)


class Search:
    """Maximises the pooled AUROC of the final model on validation rows.

    Args:
        space: by configuration key, a list of options or a range `{low, high, log, step}`.
        trials: how many runs in all, those that were stopped early included.
        workers: how many at once.
        startup: runs that are never stopped early.
        warmup: rounds after which a run may be stopped.
        seed: of the suggestions.

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
        self.space: Space = parse(space)
        if min(trials, workers) < 1:
            raise ConfigError("sweep: trials and workers must be at least 1.", "Correct them.")
        self.trials, self.workers = trials, workers
        self.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=workers > 1, n_startup_trials=startup)
        self.pruner = optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)

    def run(self, words: Sequence[str], folder: Path, config_dir: str, told: Told) -> None:
        """Search, or go on with the search in `folder`.

        Args:
            words: that all trials share.
            folder: one directory for each trial, and the study.
            config_dir: a further folder of configuration files, empty for none.
            told: called with a line about every trial that ended.

        """
        folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = self._study(folder)
        interrupted = [Trial(study, each._trial_id) for each in study.get_trials(states=[TrialState.RUNNING])]
        running: list[_Running] = []
        try:
            while running or interrupted or self._left(study) > 0:
                while len(running) < self.workers and (interrupted or self._left(study) > len(running)):
                    trial = interrupted.pop() if interrupted else study.ask(self.space)
                    running.append(self._begin(trial, words, folder, config_dir))
                for each in running:
                    self._follow(each)
                for each in [each for each in running if not each.process.is_alive()]:
                    running.remove(each)
                    told(_ended(study, each))
                time.sleep(_LOOK_SECONDS)
        finally:
            for each in running:
                _interrupt(each.process)

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
        """Return how many trials have not ended."""
        return self.trials - len(study.get_trials(deepcopy=False, states=_TRIED))

    def _begin(self, trial: Trial, words: Sequence[str], folder: Path, config_dir: str) -> _Running:
        chosen = [*words, *(f"{key}={value}" for key, value in trial.params.items())]
        run = RunDir(folder / f"trial-{trial.number}")
        name = run_id(folder, trial.number)
        process = get_context("spawn").Process(target=_work, args=(chosen, str(run.path), config_dir, name))
        process.start()
        return _Running(trial, process, run)

    def _follow(self, each: _Running) -> None:
        """Tell the study of every completed round; stop a run that falls behind the median."""
        events, each.position = each.run.events(each.position)
        for number, auroc in _scores(events):
            if number not in each.seen:
                each.seen.add(number)
                each.trial.report(auroc, number)
        if each.seen and not each.pruned and each.trial.should_prune():
            each.pruned = True
            _interrupt(each.process)


def _work(words: list[str], folder: str, config_dir: str, name: str | None) -> None:
    """Do one trial, in a process of its own."""
    with suppress(KeyboardInterrupt):  # stopped early: run.json says so
        config = compose(words, Path(config_dir) if config_dir else None)
        work_on(config, words, RunDir(Path(folder)), config_dir, name)


def _scores(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, float]]:
    """Yield (rounds of training, pooled validation AUROC) of completed rounds."""
    for event in events:
        if event["event"] == "round_completed":
            value = (event["pooled"].get("validation") or {}).get("auroc")
            if value is not None:
                yield event["round"] - 1, float(value)


def _ended(study: optuna.Study, each: _Running) -> str:
    """Tell the study how a trial ended, and return it as a line."""
    outcome = _outcome(each)
    value = outcome.validation
    state = {"completed": TrialState.COMPLETE, "stopped early": TrialState.PRUNED}.get(outcome.state, TrialState.FAIL)
    study.tell(each.trial, value if state is TrialState.COMPLETE else None, state)
    told = outcome.problem or ("" if value is None else f"validation AUROC {value:.3f}")
    parameters = " ".join(f"{key}={value}" for key, value in each.trial.params.items())
    return f"{outcome.state} {each.trial.number}: {parameters}  {told}".rstrip()


def _outcome(each: _Running) -> Outcome:
    about = each.run.about
    if about.get("state") == "completed":
        value = validation_of(each.run)
        return Outcome("completed", validation=value) if value is not None else Outcome("failed", "no validation score")
    if each.pruned:
        return Outcome("stopped early")
    problem = (about.get("error") or {}).get("problem", f"its process ended with code {each.process.exitcode}")
    return Outcome("failed", str(problem))


def _interrupt(process: BaseProcess) -> None:
    """Press Ctrl-C for a trial: a run in the hospitals is stopped there too."""
    if process.is_alive() and process.pid:
        os.kill(process.pid, signal.SIGINT)
        process.join()
