"""MLflow: a store on this machine (a database file or a folder) or a server.

What is sent is what the lead knows: the resolved configuration, pooled curves and scores, bytes and times, the report
and the model card. What virtual sites keep to themselves, and the weights unless asked for, stay in the run directory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from fedhealth.errors import ConfigError
from fedhealth.evaluation.metrics import METRIC
from fedhealth.report.summary import summary
from fedhealth.runs.load_record import collect
from fedhealth.runs.record import Run
from fedhealth.runs.run_dir import GROUPS, MODEL

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder is what a single user wants

_FILES = ("report.html", "config.yaml", "evaluation.json", "comparison.json", GROUPS, f"{MODEL}/README.md")
_STATES = {"completed": "FINISHED", "stopped": "KILLED"}
_MOST_PARAMETERS, _MOST_METRICS = 100, 1000  # in one request
_LONGEST = 500  # characters of a parameter
_RUN = "fedhealth.run"  # the tag that finds a run again


class MlflowTracking:
    """One MLflow run for each of ours.

    Args:
        uri: a server (`http://...`), a database (`sqlite:///FILE`) or a folder.
        experiment: its name; made where it does not exist.
        weights: whether the exported model is sent too.

    """

    def __init__(self, uri: str, experiment: str = "fedhealth", weights: bool = False) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as fault:
            raise ConfigError(
                "MLflow is not installed.", "Install fedhealth[tracking], or use tracking=none."
            ) from fault
        place = uri if "://" in uri else Path(uri).expanduser().resolve().as_uri()
        self.uri, self.experiment, self.weights = place, experiment, weights
        self._client = MlflowClient(place)

    def track(self, folder: Path) -> str:
        """Send the run directory; a run that is there already (it was resumed) is brought up to date."""
        run = collect(folder)
        made = self._begin(run)
        for some in _parts(_parameters(run.config), _MOST_PARAMETERS):
            self._client.log_batch(made, params=some)
        for points in _parts(_metrics(run), _MOST_METRICS):
            self._client.log_batch(made, metrics=points)
        for name in _FILES:
            if (folder / name).is_file():
                self._client.log_artifact(made, str(folder / name))
        if self.weights and (folder / MODEL).is_dir():
            self._client.log_artifacts(made, str(folder / MODEL), MODEL)
        self._client.set_terminated(made, _STATES.get(str(run.about.get("state")), "FAILED"), _time(run, "finished"))
        return f"{self.uri} (experiment {self.experiment}, run {made})"

    def _begin(self, run: Run) -> str:
        """Return the id of this run's MLflow run."""
        name = str(run.about["run"])
        found = self._client.get_experiment_by_name(self.experiment)
        place = found.experiment_id if found else self._client.create_experiment(self.experiment)
        known = self._client.search_runs([place], f"tags.`{_RUN}` = '{name}'")
        tags = {_RUN: name, "mlflow.note.content": summary(run), **_tags(run.about)}
        if known:
            made = str(known[0].info.run_id)
            for key, value in tags.items():
                self._client.set_tag(made, key, value)
            return made
        shown = str(run.about.get("name") or run.folder)
        return str(self._client.create_run(place, _time(run, "started"), tags, shown).info.run_id)


def _parts(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of at most `size`."""
    while some := list(islice(items, size)):
        yield some


def _tags(about: Mapping[str, Any]) -> dict[str, str]:
    names = {"digest": "digest", "versions": "versions", "revision": "mlflow.source.git.commit"}
    return {tag: str(about[key]) for key, tag in names.items() if about.get(key)}


def _parameters(config: Mapping[str, Any], prefix: str = "") -> Iterator[Any]:
    """Yield every leaf of the configuration under its dotted key; an empty one says nothing."""
    from mlflow.entities import Param

    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _parameters(value, f"{prefix}{key}.")
        elif value not in (None, [], ""):
            yield Param(f"{prefix}{key}".replace("/", "."), str(value)[:_LONGEST])


def _metrics(run: Run) -> Iterator[Any]:
    """Yield pooled numbers of every round, and the final model's."""
    from mlflow.entities import Metric

    now = _time(run, "finished")
    for each in run.rounds:
        sent = sum(answer.sent for answer in each.answers)
        received = sum(answer.received for answer in each.answers)
        validation = (each.pooled.get("validation") or {}).get(METRIC)
        told = {"loss": each.pooled.get("loss"), "seconds": each.seconds, "divergence": each.divergence}
        for name, value in (told | {"bytes_to_sites": sent, "bytes_from_sites": received}).items():
            if value is not None and not math.isnan(value):
                yield Metric(f"round.{name}", float(value), now, each.number)
        if validation is not None:  # of the model that came in
            yield Metric(f"round.validation.{METRIC}", float(validation), now, each.number - 1)
    for split in run.evaluation:
        found = run.test if split == "test" and run.test else run.evaluation[split]
        for name, estimate in found.metrics.items():
            ends = {name: estimate.value, f"{name}.low": estimate.low, f"{name}.high": estimate.high}
            yield from (Metric(f"{split}.{k}", v, now, len(run.rounds)) for k, v in ends.items() if not math.isnan(v))
    if run.spending:
        yield Metric("epsilon", max(each.epsilon for each in run.spending), now, len(run.rounds))


def _time(run: Run, moment: str) -> int:
    """Return a moment of the run in milliseconds; the beginning where it has none."""
    said = run.about.get(moment) or run.about["started"]
    return round(datetime.fromisoformat(str(said)).timestamp() * 1000)
