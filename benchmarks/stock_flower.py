"""Stock Flower as its documentation sets it up: SuperLink, SuperNodes, a process for each message. For comparisons."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import ListNodesRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient

_PROJECT = """\
[project]
name = "stock"
version = "1.0.0"
description = "Sends arrays to the nodes and back."
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "stock_apps:server"
clientapp = "stock_apps:client"
[tool.flwr.app.config]
arrays = ""
seconds = ""
phases = 1
nodes = 1
"""
_APPS = """\
import json, time
from pathlib import Path
import numpy as np
import $imports
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client, server = ClientApp(), ServerApp()

@client.train()
def train(message, context):
    arrays = message.content["arrays"].to_numpy_ndarrays()
    return Message(RecordDict({"arrays": ArrayRecord([array + 1 for array in arrays])}), reply_to=message)

@server.main()
def main(grid, context):
    run_config = context.run_config
    with np.load(run_config["arrays"]) as stored:
        arrays = [stored[name] for name in stored.files]
    while len(list(grid.get_node_ids())) < int(run_config["nodes"]):
        time.sleep(0.5)
    seconds = []
    for _ in range(int(run_config["phases"])):
        content = RecordDict({"arrays": ArrayRecord(arrays)})
        asked = [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
        began = time.perf_counter()
        replies = list(grid.send_and_receive(asked))
        assert not any(reply.has_error() for reply in replies), replies
        seconds.append(time.perf_counter() - began)
    Path(run_config["seconds"]).write_text(json.dumps(seconds))
"""


def measure_stock_phases(
    folder: Path, state: dict[str, np.ndarray], nodes: int, phases: int, imports: str
) -> list[float]:
    """Return the seconds of each of so many phases: arrays to all nodes and back.

    Args:
        folder: a new one, for what the processes write.
        state: the arrays.
        nodes: as many, each with processes of its own.
        phases: one after another.
        imports: the module that the application imports for every message, for example `torch`.

    """
    folder.mkdir(parents=True)
    np.savez(folder / "arrays.npz", allow_pickle=False, **state)
    result = folder / "seconds.json"
    run_config: dict[str, bool | float | int | str] = {
        "arrays": str(folder / "arrays.npz"),
        "seconds": str(result),
        "phases": phases,
        "nodes": nodes,
    }
    with _run_superlink(folder, nodes) as address:
        with ControlHttpClient.from_server_address(address, True, None, []) as client:
            _wait_until(lambda: _count_online(client) == nodes)
            content = _build_bundle(imports)
            fab = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
            client.StartRun(StartRunRequest(fab=fab, override_config=user_config_to_proto(run_config)))
        _wait_until(lambda: result.is_file() and result.read_text().endswith("]"))
    return [float(value) for value in json.loads(result.read_text())]


@contextmanager
def _run_superlink(folder: Path, nodes: int) -> Iterator[str]:
    """Start the processes; yield the address of the control API."""
    fleet, control, grpc, *own = find_unused_ports(3 + nodes)
    environment = {**os.environ, "FLWR_HOME": str(folder / "flower"), "FLWR_TELEMETRY_ENABLED": "0"}
    environment |= {"OMP_NUM_THREADS": "1", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    link = ["flower-superlink", "--insecure", "--database", str(folder / "state.db"), "--port", str(control)]
    link += ["--fleet-api-type", "grpc-rere", "--fleet-api-address", f"127.0.0.1:{fleet}"]
    link += ["--control-api-address", f"127.0.0.1:{grpc}", "--host", "127.0.0.1"]
    commands = [link]
    for port in own:
        node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{control}", "--port", str(port)]
        commands.append(node)
    processes = []
    try:
        for number, command in enumerate(commands):
            log = (folder / f"{number}.log").open("wb")
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
            if number == 0:
                _wait_until(lambda: _is_listening(control))
        yield f"127.0.0.1:{control}"
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)


def _build_bundle(imports: str) -> bytes:
    from flwr.cli.build import build_fab_from_files

    apps = _APPS.replace("$imports", imports)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return build_fab_from_files({"pyproject.toml": _PROJECT.encode(), "stock_apps.py": apps.encode()})[0]


def _count_online(client: ControlHttpClient) -> int:
    return sum(node.status == "online" for node in client.ListNodes(ListNodesRequest()).nodes_info)


def find_unused_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_until(ready: object, seconds: float = 240.0) -> None:
    ends = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        if time.monotonic() > ends:
            raise TimeoutError("stock Flower does not answer")
        time.sleep(0.2)
