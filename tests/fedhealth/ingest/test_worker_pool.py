"""Workers that hang, crash and eat memory, and the tasks beside them."""

import os
import signal
import time

import pytest

from fedhealth.ingest.worker_pool import FailedTask, WorkerPool


def work(task):
    if task == "hang":
        time.sleep(600)
    if task == "crash":
        os._exit(3)
    if task == "memory":
        return len(bytearray(2 << 30))
    if task == "large":
        return bytes(1 << 20)
    if task == "slow":
        time.sleep(0.5)
    if task.startswith("who"):
        time.sleep(0.01)
        return os.getpid()
    return f"{task} done"


def answers(tasks, **limits):
    with WorkerPool(work, **({"workers": 2, "seconds": 60, "megabytes": 256} | limits)) as pool:
        return dict(pool.iterate_results(tasks))


@pytest.mark.parametrize("ahead", [1, 4])
def test_a_bad_task_harms_nothing_but_itself(ahead):
    tasks = [*map(str, range(10)), "crash", *map(str, range(10, 20)), "memory", *map(str, range(20, 30)), "large"]
    found = answers(tasks, ahead=ahead)
    assert found.keys() == set(tasks)
    assert found["crash"] == FailedTask("makes the decoder crash")
    assert found["memory"] == FailedTask("needs more than 256 MB of memory")
    assert len(found["large"]) == 1 << 20
    assert all(found[str(number)] == f"{number} done" for number in range(30))


def test_what_hangs_is_ended():
    found = answers(["1", "hang", "2", "3"], seconds=0.5, workers=1, ahead=3)
    assert found == {"1": "1 done", "2": "2 done", "3": "3 done", "hang": FailedTask("takes longer than 0.5 s")}


def test_few_tasks_are_shared():
    found = answers([f"who {number}" for number in range(8)], ahead=16)
    assert len(set(found.values())) == 2


def test_no_tasks():
    assert answers([]) == {}


def test_a_worker_that_dies_with_nothing_to_do_is_replaced():
    with WorkerPool(work, workers=2, seconds=60, megabytes=256) as pool:
        dead = pool._workers[1].process
        os.kill(dead.pid, signal.SIGKILL)
        dead.join()
        assert list(pool.iterate_results(["slow"])) == [("slow", "slow done")]
        assert pool._workers[1].process.is_alive()
