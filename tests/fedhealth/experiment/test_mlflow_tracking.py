"""MLflow's own client, a store in a folder, and a real server."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings

import pytest

from fedhealth.errors import ConfigError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.mlflow_tracking import MlflowTracking
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.run_dir import RunDir

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def overrides(tiny_overrides, good_hospitals):
    return tiny_overrides(good_hospitals)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server that stores in a folder."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    settings = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "1"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", (folder / "store").as_uri(), "--artifacts-destination", str(folder / "files")]
    address, log = f"http://127.0.0.1:{port}", (folder / "log").open("w")
    process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True)
    try:
        while not healthy(address):
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


def healthy(address):
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def seen(uri, experiment="fedhealth"):
    """Return the only run of an experiment, and a client."""
    from mlflow import MlflowClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = MlflowClient(uri)
        (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run, client


@pytest.mark.parametrize("store", ["folder", "server"])
def test_a_store_receives_the_run(store, overrides, tmp_path, request):
    uri = (tmp_path / "mlruns").as_uri() if store == "folder" else request.getfixturevalue("server")
    overrides = [*overrides, "tracking=mlflow", f"tracking.uri={uri}", "tracking.weights=true"]
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, run))
    tracked, client = seen(uri)
    record = load_run_record(run.path)
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == "run"
    assert tracked.data.tags["fedhealth.run"] == run.info.run
    assert tracked.data.params["strategy.rounds"] == "2"
    assert tracked.data.params["data.sites"] == "['north', 'south', 'east']"
    assert tracked.data.metrics["test.auroc"] == pytest.approx(record.test_result.metrics["auroc"].value)
    losses = client.get_metric_history(tracked.info.run_id, "round.loss")
    assert [(point.step, point.value) for point in losses] == [(e.number, e.pooled["loss"]) for e in record.rounds]
    held = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert {"report.html", "config.yaml", "README.md", "model"} <= held
    assert "sites" not in held
    assert [event["event"] for event in run.read_events()[0]][-1] == "tracked"


def test_a_run_is_told_once_also_when_it_is_resumed(overrides, tmp_path):
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, run))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracking = MlflowTracking(str(tmp_path / "mlruns"), "mine")
        run.update_info(state="stopped")
        tracking.track(run.path)
        assert seen((tmp_path / "mlruns").as_uri(), "mine")[0].info.status == "KILLED"
        run.update_info(state="completed")
        tracking.track(run.path)
    tracked, client = seen((tmp_path / "mlruns").as_uri(), "mine")
    assert tracked.info.status == "FINISHED"
    assert "model" not in {
        file.path for file in client.list_artifacts(tracked.info.run_id)
    }  # weights were not asked for


def test_a_tracker_that_fails_costs_the_run_nothing(overrides, tmp_path):
    overrides = [*overrides, "strategy.rounds=1", "tracking=mlflow", "tracking.uri=http://127.0.0.1:9"]
    run = RunDir(tmp_path / "run")
    launch_run(RunSpec.compose(overrides, run))
    assert run.info.state == "completed"
    assert run.read_events()[0][-1]["event"] == "tracking_failed"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never replies
        for uri in ("http://127.0.0.1:9", f"http://127.0.0.1:{silent.getsockname()[1]}"):
            begin, tracking = time.monotonic(), MlflowTracking(uri)
            with pytest.raises(Exception, match=r"Max retries|Read timed out|API request"):
                tracking.track(run.path)
            assert time.monotonic() - begin < 10


def test_without_mlflow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match="not installed"):
        MlflowTracking("mlruns")


@pytest.mark.parametrize("replies", [True, False])
def test_a_server_that_is_down_is_tried_twice_and_the_run_is_completed(overrides, tmp_path, monkeypatch, replies):
    """One server replies that it is unavailable, the other accepts connections and stays silent."""
    assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) * 2 <= 10
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    run, requests = RunDir(tmp_path / "run"), []
    with socket.create_server(("127.0.0.1", 0)) as down:
        threading.Thread(target=accept_all, args=(down, requests, replies), daemon=True).start()
        uri = f"http://127.0.0.1:{down.getsockname()[1]}"
        launch_run(RunSpec.compose([*overrides, "strategy.rounds=1", "tracking=mlflow", f"tracking.uri={uri}"], run))
        down.shutdown(socket.SHUT_RDWR)
    for connection in requests:
        connection.close()
    assert len(requests) == 2
    assert run.info.state == "completed"
    assert [event["event"] for event in run.read_events()[0]][-1] == "tracking_failed"


def accept_all(server, requests, replies):
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            requests.append(connection)
            if replies:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                connection.close()
