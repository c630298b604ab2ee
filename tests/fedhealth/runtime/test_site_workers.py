"""Hospitals in worker processes: the same results in the same order, and every way in which a worker can end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file

from fedhealth.errors import ConfigError, DataError, FederationError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.flower.in_process_grid import InProcessGrid
from fedhealth.protocol.job import Job
from fedhealth.runs.run_dir import RunDir
from fedhealth.runtime.local import LocalRuntime
from fedhealth.runtime.site_workers import start_site_workers
from fedhealth.utils import free_memory

APP = "tests.fedhealth.runtime.test_site_workers.create_app"
SITES = ["north", "south", "east", "west", "harbor"]


class OddError(Exception):
    """An exception that cannot be sent between processes."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class NamedError(FederationError):
    """An error of the user's own app, which makes its words itself."""

    def __init__(self, site):
        super().__init__(f"The site {site} has no table.", "Add it.")


def create_app(job):
    app, seen = ClientApp(), []

    @app.query()
    def query(message: Message, context: Context) -> Message:
        order = str(message.content["order"]["text"])
        seen.append(order)
        if order == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif order == "refuse":
            raise DataError("the table has no column age", "Add it.")
        elif order == "odd":
            raise OddError(1, 2)
        elif order == "named":
            raise NamedError("north")
        elif order == "wait":
            time.sleep(0.2)
        elif order.startswith("write "):
            Path(order.removeprefix("write ")).touch()
        found = MetricRecord(
            {"pid": os.getpid(), "node": context.node_id, "seen": len(seen), "siblings": free_memory._siblings}
        )
        return Message(RecordDict({"found": found}), reply_to=message)

    return app


@pytest.fixture(name="grid")
def grid_(tmp_path):
    with start_site_workers(APP, Job("run", (), "", str(tmp_path)), 2) as workers:
        yield InProcessGrid(workers.compute_replies, SITES, {})


def ask(grid, *orders):
    """Send every site an order; return the replies as they come."""
    contents = [RecordDict({"order": ConfigRecord({"text": order})}) for order in orders]
    messages = [Message(content, node, "query") for node, content in enumerate(contents, start=1)]
    return [dict(reply.content["found"]) for reply in grid.pull_messages(grid.push_messages(messages))]


def test_workers_share_the_memory(tmp_path):
    with start_site_workers(APP, Job("run", (), "", str(tmp_path)), 3) as workers:
        found = ask(InProcessGrid(workers.compute_replies, ["north"], {}), "siblings")
    assert found[0]["siblings"] == 3


def test_replies_keep_the_order_of_their_messages_and_sites_keep_their_process(grid):
    first = ask(grid, "wait", "", "wait", "", "")
    second = ask(grid, "", "", "", "", "wait")
    assert [each["node"] for each in first] == [each["node"] for each in second] == [1, 2, 3, 4, 5]
    assert [each["pid"] for each in first] == [each["pid"] for each in second]
    assert len({each["pid"] for each in first}) == 2
    assert os.getpid() not in {each["pid"] for each in first}


def test_no_worker_is_far_ahead_of_what_is_read(grid, tmp_path):
    """While one hospital takes its time, the other worker stops after a few replies, which are in memory."""
    orders = ["wait", *(f"write {tmp_path / str(number)}" for number in range(40))]
    contents = [RecordDict({"order": ConfigRecord({"text": order})}) for order in orders]
    messages = [Message(content, 1 + (number > 0), "query") for number, content in enumerate(contents)]
    replies = iter(grid.pull_messages(grid.push_messages(messages)))
    next(replies)
    assert 1 <= len(list(tmp_path.glob("[0-9]*"))) <= 6
    assert len(list(replies)) == 40


def test_who_has_enough_replies_can_ask_again(grid, tmp_path):
    """As secure aggregation does: it reads no further than its threshold, and the other messages are not sent."""
    for step in ("first", "second"):
        orders = [f"write {tmp_path / step}-{number}" for number in range(40)]
        contents = [RecordDict({"order": ConfigRecord({"text": order})}) for order in orders]
        messages = [Message(content, 1 + number % 5, "query") for number, content in enumerate(contents)]
        replies = iter(grid.pull_messages(grid.push_messages(messages)))
        assert next(replies).content["found"]["node"] == 1
        replies.close()
    assert [reply["node"] for reply in ask(grid, "", "", "", "", "")] == [1, 2, 3, 4, 5]
    assert all(1 <= len(list(tmp_path.glob(f"{step}-*"))) <= 6 for step in ("first", "second"))


def test_what_an_application_raises_is_raised_here(grid):
    with pytest.raises(DataError, match="no column age") as caught:
        ask(grid, "", "refuse")
    assert "in query" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(("order", "trace"), [("odd", "OddError: 1 and 2"), ("named", "The site north has no table")])
def test_an_exception_that_cannot_be_sent_becomes_its_trace(grid, order, trace):
    with pytest.raises(RuntimeError, match=trace):
        ask(grid, order)


def test_a_worker_that_dies_ends_the_run_with_its_exit_code_and_advice(grid):
    with pytest.raises(FederationError, match=r"exit code -9(?s:.)*runtime\.workers=1"):
        ask(grid, "", "die", "")


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = f"""
import os, signal
from fedhealth.protocol.job import Job
from fedhealth.runtime.site_workers import SiteWorkers
workers = SiteWorkers({APP!r}, Job("run", (), "", {str(tmp_path)!r}), 2)
print(*(each.process.pid for each in workers._workers), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    until = time.monotonic() + 60
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, None, "two"])
def test_a_number_of_workers_that_is_none_is_refused(workers):
    with pytest.raises(ConfigError, match=rf"runtime\.workers: must be a whole number of at least 1, is {workers}\."):
        LocalRuntime("server", "client", workers)


@pytest.mark.parametrize("overrides", [["secagg=off"], ["secagg=off", "personalization=ditto"], ["secagg=on"]])
def test_results_do_not_depend_on_the_number_of_workers(overrides, good_hospitals, tiny_overrides, tmp_path):
    found = []
    for workers in (1, 2):
        run = RunDir(tmp_path / str(workers))
        words = [*tiny_overrides(good_hospitals), *overrides, f"runtime.workers={workers}"]
        launch_run(RunSpec.compose(words, run))
        personal = [load_file(path) for path in sorted(run.path.glob("sites/*/personal.safetensors"))]
        found.append([load_file(run.path / "model.safetensors"), *personal])
    one, two = found
    assert len(one) == len(two) == (4 if "personalization=ditto" in overrides else 1)
    tolerance = 1e-4 if "secagg=on" in overrides else 0.0  # its rounding is drawn
    for first, second in zip(one, two, strict=True):
        assert all(np.abs(first[name] - second[name]).max() <= tolerance for name in first)


def test_the_log_of_the_hospitals_is_the_runs(good_hospitals, tiny_overrides, tmp_path, site_writer):
    """What a site logs in its process stands in the run's log, and its fault among the run's events."""
    site_writer(tmp_path / "data", "north", patients=24)
    site_writer(tmp_path / "data", "south", patients=24)
    run = RunDir(tmp_path / "run")
    words = [*tiny_overrides(tmp_path / "data"), "data.sites=[north,south]", "runtime.workers=2"]
    words += ["strategy.attempts=1", "training.optimizer.lr=1e30", "strategy.rounds=3"]
    with pytest.raises(FederationError):
        launch_run(RunSpec.compose(words, run))
    assert "failed" in (run.path / "fedhealth.log").read_text()
    assert any(event["event"] == "site_fault" for event in run.read_events()[0])
