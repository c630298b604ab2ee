"""examples/flower_*: an unmodified `flwr run` against an unmodified SuperLink."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
BIN = Path(sys.executable).parent
pytestmark = [pytest.mark.services, pytest.mark.xdist_group("flower")]
ACCURACY = re.compile(r"accuracy (0\.\d+)(?: over (\d+) examples)?")


def find_free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module", name="environment")
def environment_(tmp_path_factory):
    """Start a SuperLink for simulations, and return the environment in which `flwr` finds it."""
    home = tmp_path_factory.mktemp("flower")
    fleet, control = find_free_ports(2)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "test"\n[superlink.test]\naddress = "127.0.0.1:{fleet}"\ninsecure = true\n', "utf-8"
    )
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # 15 by default: a busy machine would starve the sites
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(EXAMPLES.parent),
    }
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess", "--host", "127.0.0.1"]
    command += ["--port", str(fleet), "--control-api-address", f"127.0.0.1:{control}"]
    with (
        (home / "superlink.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home) as superlink,
    ):
        wait_for_port(fleet, superlink, home / "superlink.log")
        yield environment
        superlink.terminate()


def wait_for_port(port, process, log):
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text("utf-8"))


def run_app(name, environment, sites, **config):
    command = ["flwr", "run", str(EXAMPLES / name), "--stream"]
    command += ["--federation-config", f"num-supernodes={sites} client-resources-num-cpus=1"]
    if config:
        command += ["--run-config", " ".join(f'{key}="{value}"' for key, value in config.items())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    found = ACCURACY.search(done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1]), found[2]


def test_the_stock_app_trains(environment):
    accuracy, _ = run_app("flower_stock", environment, 3)
    assert accuracy > 0.8


def test_the_secure_app_trains(environment, tmp_path):
    accuracy, examples = run_app("flower_secure", environment, 4, folder=tmp_path / "state")
    assert accuracy > 0.8
    assert examples == str(100 + 120 + 140 + 160)
