"""MLflow tracking: a local store (a database file or a folder) or a server.

The tracker sends only what the lead knows: the resolved configuration, pooled curves and scores, bytes and times, the
report and the model card. Private files of virtual sites stay in the run directory; so do the weights, by default.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from fedhealth.evaluation.metrics import PRIMARY_METRIC
from fedhealth.report.summary import summarize_run
from fedhealth.runs.guarantee import get_promised_guarantee, get_spent_guarantee
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.record import RunRecord
from fedhealth.runs.run_dir import GROUPS_FILE, MODEL_DIR
from fedhealth.utils.extras import build_missing_error
from fedhealth.utils.user_path import expand_user

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder suits a single user
# A server that is down costs a run at most ten seconds; MLflow's own settings would wait for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")  # seconds of silence
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

_FILES = ("report.html", "config.yaml", "evaluation.json", "comparison.json", GROUPS_FILE, f"{MODEL_DIR}/README.md")
_STATES = {"completed": "FINISHED", "stopped": "KILLED"}
_MOST_PARAMETERS, _MOST_METRICS = 100, 1000  # in one request
_LONGEST = 500  # characters of a parameter
_RUN = "fedhealth.run"  # the tag by which a run is found


class MlflowTracking:
    """One MLflow run for each fedhealth run.

    Args:
        uri: a server (`http://...`), a database (`sqlite:///FILE`) or a folder.
        experiment: name of the MLflow experiment; created if it does not exist.
        weights: whether the exported model is sent, too.

    """

    def __init__(self, uri: str, experiment: str = "fedhealth", weights: bool = False) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as fault:
            raise build_missing_error("mlflow") from fault
        place = uri if "://" in uri else expand_user(uri).resolve().as_uri()
        self.uri, self.experiment, self.weights = place, experiment, weights
        self._client = MlflowClient(place)

    def track(self, folder: Path) -> str:
        """Send the run directory; if the run was tracked before (it was resumed), update it."""
        run = load_run_record(folder)
        made = self._begin(run)
        for some in _split_batches(_list_parameters(run.config), _MOST_PARAMETERS):
            self._client.log_batch(made, params=some)
        for points in _split_batches(_list_metrics(run), _MOST_METRICS):
            self._client.log_batch(made, metrics=points)
        for name in _FILES:
            if (folder / name).is_file():
                self._client.log_artifact(made, str(folder / name))
        if self.weights and (folder / MODEL_DIR).is_dir():
            self._client.log_artifacts(made, str(folder / MODEL_DIR), MODEL_DIR)
        self._client.set_terminated(made, _STATES.get(run.info.state, "FAILED"), _get_time_ms(run, "finished"))
        return f"{self.uri} (experiment {self.experiment}, run {made})"

    def _begin(self, run: RunRecord) -> str:
        """Return the id of this run's MLflow run."""
        name = run.info.run
        found = self._client.get_experiment_by_name(self.experiment)
        place = found.experiment_id if found else self._client.create_experiment(self.experiment)
        known = self._client.search_runs([place], f"tags.`{_RUN}` = '{name}'")
        tags = {_RUN: name, "mlflow.note.content": summarize_run(run), **_make_tags(run)}
        if known:
            made = str(known[0].info.run_id)
            for key, value in tags.items():
                self._client.set_tag(made, key, value)
            return made
        shown = run.info.name or run.folder
        return str(self._client.create_run(place, _get_time_ms(run, "started"), tags, shown).info.run_id)


def _split_batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of at most `size`."""
    while some := list(islice(items, size)):
        yield some


def _make_tags(run: RunRecord) -> dict[str, str]:
    names = {"digest": "digest", "versions": "versions", "revision": "mlflow.source.git.commit"}
    guarantee = get_spent_guarantee(run) or get_promised_guarantee(run)
    unit = {"privacy.unit": guarantee.unit} if guarantee else {}
    return {tag: str(value) for key, tag in names.items() if (value := getattr(run.info, key))} | unit


def _list_parameters(config: Mapping[str, Any], prefix: str = "") -> Iterator[Any]:
    """Yield every leaf of the configuration under its dotted key, except empty ones."""
    from mlflow.entities import Param

    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _list_parameters(value, f"{prefix}{key}.")
        elif value not in (None, [], ""):
            yield Param(f"{prefix}{key}".replace("/", "."), str(value)[:_LONGEST])


def _list_metrics(run: RunRecord) -> Iterator[Any]:
    """Yield the pooled metrics of every round and of the final model."""
    from mlflow.entities import Metric

    now = _get_time_ms(run, "finished")
    for each in run.rounds:
        sent = sum(reply.bytes_sent for reply in each.replies)
        received = sum(reply.bytes_received for reply in each.replies)
        validation = (each.pooled.get("validation") or {}).get(PRIMARY_METRIC)
        values = {"loss": each.pooled.get("loss"), "seconds": each.seconds, "divergence": each.divergence}
        for name, value in (values | {"bytes_to_sites": sent, "bytes_from_sites": received}).items():
            if value is not None and not math.isnan(value):
                yield Metric(f"round.{name}", float(value), now, each.number)
        if validation is not None:  # of the incoming model
            yield Metric(f"round.validation.{PRIMARY_METRIC}", float(validation), now, each.number - 1)
    splits = {split: result.metrics for split, result in run.evaluation.items()}
    if run.test_result:
        splits["test"] = run.test_result.metrics
        splits |= {"test_calibrated": found.metrics} if (found := run.test_result.calibrated) else {}
    for split, metrics in splits.items():
        for name, estimate in metrics.items():
            ends = {name: estimate.value, f"{name}.low": estimate.low, f"{name}.high": estimate.high}
            yield from (Metric(f"{split}.{k}", v, now, len(run.rounds)) for k, v in ends.items() if not math.isnan(v))
    if spent := get_spent_guarantee(run):
        names = ("epsilon", "delta", "noise_multiplier")
        yield from (Metric(f"privacy.{name}", getattr(spent, name), now, len(run.rounds)) for name in names)


def _get_time_ms(run: RunRecord, moment: str) -> int:
    """Return a time of the run in milliseconds; its start if the time is unknown."""
    said: str = getattr(run.info, moment) or run.info.started
    return round(datetime.fromisoformat(said).timestamp() * 1000)
