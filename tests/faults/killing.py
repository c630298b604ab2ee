"""Kill a run with SIGKILL at a chosen moment: the process is forked, patched, and never knows what hit it."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

import clients.merge
import clients.release
import strategies.aggregation.secure
import strategies.aggregation.sum_store
import strategies.checkpoint
import strategies.fedavg
import strategies.final_model
import strategies.round_driver
from fedhealth.experiment.launch import launch_run, resume_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir
from fedhealth.secagg.server.session import ServerSession
from fedhealth.training import trainer

Moment = tuple[object, str, int, bool]
"""What is patched: owner, attribute, which call, and whether the call happens first."""

MOMENTS: dict[str, Moment] = {
    "before train": (strategies.round_driver.RoundDriver, "_collect_replies", 2, False),
    "while training": (trainer, "compute_row_losses", 9, False),
    "between training and memory": (clients.merge.StateMerger, "save_round", 5, False),
    "between memory and answer": (clients.merge.StateMerger, "save_round", 5, True),
    "between answer and release": (clients.release.ReleaseRecorder, "record", 5, False),
    "between release and reply": (clients.release.ReleaseRecorder, "record", 5, True),
    "after upload": (strategies.round_driver.RoundDriver, "add_reply", 5, True),
    "between rounds": (strategies.fedavg.FedAvg, "_train_round", 2, False),
    "after the sum, before the checkpoint": (strategies.fedavg.FedAvg, "_complete_round", 2, False),
    "while checkpointing": (strategies.checkpoint, "write_array_file", 2, False),
    "before the evaluation": (strategies.final_model.FinalModel, "_evaluate", 1, False),
    "while evaluating": (strategies.round_driver.RoundDriver, "add_reply", 11, True),
}
_IN_LAST_ROUND = {2: 3, 5: 8, 9: 15}  # by the call in round 2: that of round 3, with three sites and two steps
SEALED_MOMENTS: dict[str, Moment] = {
    "before unmask": (strategies.aggregation.secure.SecureSum, "_unmask", 2, False),
    "while unmasking": (ServerSession, "add_unmask_reply", 5, True),
    "after unmask": (ServerSession, "open_sums", 2, False),
    "before the sum is stored": (strategies.aggregation.sum_store.SumStore, "save", 2, False),
    "after the sum is stored": (strategies.aggregation.sum_store.SumStore, "save", 2, True),
}


def move_to_last_round(moment: Moment) -> Moment:
    """Return the same moment in round 3, the last one of the tests' runs; one after training stays as it is."""
    owner, name, nth, after = moment
    return owner, name, _IN_LAST_ROUND.get(nth, nth), after


def killed_at(moment: Moment, overrides: list[str], run: RunDir) -> None:
    """Launch a run in a child process and kill it at the moment.

    Raises:
        AssertionError: it ended by itself.

    """
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(*_deadly(moment))
                if (run.path / "run.json").exists():
                    resume_run(run)
                else:
                    launch_run(RunSpec.compose(overrides, run))
        finally:
            os._exit(0)  # not reached when the moment came
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed, f"the moment never came: {moment}"


def _deadly(moment: Moment) -> tuple[object, str, Callable[..., Any]]:
    owner, name, nth, after = moment
    genuine = getattr(owner, name)
    calls = 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = genuine(*args, **kwargs)
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return owner, name, patched
