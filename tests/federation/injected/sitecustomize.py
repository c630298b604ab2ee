"""Loaded by every process of the test consortium: kills a process at a chosen moment, once, when a test asks for it.

The moments are calls of the product's own functions; nothing of this is known to the product. A test writes which
moment, which call of it and whom to kill into a file; the first process that gets there takes the file and kills.
"""

import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
from pathlib import Path

FOLDER = Path(os.environ["FEDHEALTH_TEST_FAULTS"])

# By module: the moment, what is called, and whether the moment is after the call.
CALLS = {
    "strategies.round_driver": [
        ("before train", "RoundDriver._collect_replies", False),
        ("after upload", "RoundDriver.add_reply", True),
    ],
    "strategies.aggregation.secure": [("before unmask", "SecureSum._unmask", False)],
    "strategies.checkpoint": [("while checkpointing", "write_array_file", False)],
    "strategies.fedavg": [("between rounds", "FedAvg._train_round", False)],
    "fedhealth.training.trainer": [("while training", "compute_row_losses", False)],
    "fedhealth.training.dpsgd_trainer": [("while training privately", "load_physical_batches", False)],
    "clients.release": [("between release and reply", "ReleaseRecorder.record", True)],
    "fedhealth.flower.server.message_redelivery": [
        ("while a question is handed over", "MessageRedelivery.record", False)
    ],
    "fedhealth.flower.server.reply_redelivery": [("while an answer is handed over", "ReplyRedelivery.record", False)],
    "clients.transport.secure": [("while unmasking", "SecureTransport.handle_message", False)],
}


def watched(moment, genuine, after):
    calls = 0

    @functools.wraps(genuine)
    def watching(*args, **kwargs):
        nonlocal calls
        calls += 1
        if not after:
            strike(moment, calls)
        result = genuine(*args, **kwargs)
        if after:
            strike(moment, calls)
        return result

    return watching


def strike(moment, calls):
    try:
        wish = json.loads((FOLDER / "wish.json").read_text())
        if wish["moment"] != moment or calls < wish["call"]:
            return
        (FOLDER / "wish.json").rename(FOLDER / "done.json")
    except (FileNotFoundError, json.JSONDecodeError):
        return
    for pid in VICTIMS[wish["kind"]](wish["pids"]):
        os.kill(pid, signal.SIGKILL)


def grandchildren(pid):
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return [child for child, parent in parents.items() if parents.get(parent) == pid]


def applications(pids):
    mine = f"FEDHEALTH_TEST_FAULTS={FOLDER}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            found = b"flwr-serverapp" in (path / "cmdline").read_bytes() and mine in (path / "environ").read_bytes()
        except OSError:
            continue
        if found:
            yield int(path.name)


VICTIMS = {
    "itself": lambda pids: [os.getpid()],
    "processes": lambda pids: pids,
    "power cut": lambda pids: [*pids, os.getpid()],  # of a hospital: its daemon, and the worker that got there
    "workers": lambda pids: grandchildren(*pids),
    "server application": applications,
}


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules as ever, and wraps the calls once they are loaded."""

    def find_spec(self, name, path, target=None):
        if name not in CALLS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader.exec_module = functools.partial(load, spec.loader, name)
        return spec


def load(loader, name, module):
    type(loader).exec_module(loader, module)
    for moment, called, after in CALLS[name]:
        owner, _, attribute = called.rpartition(".")
        place = getattr(module, owner) if owner else module
        setattr(place, attribute, watched(moment, getattr(place, attribute), after))


sys.meta_path.insert(0, Finder())
