"""Launch a run from Python, as `fedhealth run` does on the command line."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console

from fedhealth.api.progress import ProgressDisplay
from fedhealth.api.run import Run
from fedhealth.errors import ConfigError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.user_path import expand_user


def run(
    overrides: Sequence[str] = (),
    *,
    folder: str | Path | None = None,
    config_dir: str | Path | None = None,
    progress: bool = True,
) -> Run:
    """Train a federation and return the finished run.

    Args:
        overrides: Hydra overrides, such as `["experiment=heart", "data.root=FOLDER", "seed=1"]`.
        folder: the run directory, which must not contain a run; None makes one as `fedhealth run` does.
        config_dir: an additional folder of configuration files; the returned run loads its model with it.
        progress: whether to show progress, in a terminal or a notebook.

    Raises:
        ConfigError: an unknown key, option or type, or the folder is a file or already contains a run.
        FedhealthError: any other error of data, model, federation or privacy; run.json records it too.

    """
    if isinstance(overrides, str) or not all(isinstance(each, str) for each in overrides):
        raise ConfigError(
            f"{overrides!r} is no list of overrides.", 'Give a list of texts, such as ["experiment=heart", "seed=1"].'
        )
    own_config = expand_user(config_dir).resolve() if config_dir else None
    if own_config is not None and not own_config.is_dir():
        raise ConfigError(f"There is no folder {own_config}.", "Name a folder of configuration files.")
    spec = RunSpec.compose(overrides, RunDir(Path()), own_config)  # reports a misspelt override before a folder is made
    place = expand_user(folder) if folder else _name_folder(spec.settings.name)
    spec = replace(spec, run_dir=RunDir(place))
    if not progress:
        launch_run(spec)
        return Run(place, own_config)
    spec.run_dir.vacate()  # else the lines of an earlier run would be shown
    with _capture_warnings(), ProgressDisplay(spec.run_dir, Console()):
        launch_run(spec)
    return Run(place, own_config)


def _name_folder(name: str) -> Path:
    """Return a new folder below `outputs`, named by the time as the command line does; a number makes it unique."""
    now = datetime.now()
    first = Path("outputs") / now.strftime("%Y-%m-%d") / f"{now.strftime('%H-%M-%S')}-{name}"
    number, place = 2, first
    while place.exists():
        number, place = number + 1, first.with_name(f"{first.name}-{number}")
    return place


@contextmanager
def _capture_warnings() -> Iterator[None]:
    """Send warnings to the run's log while the progress is shown."""
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
