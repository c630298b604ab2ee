"""A start that must not be leaves the running server and its SuperExec alone."""

import os
import socket

import pytest

from fedhealth.errors import StartRefusedError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import Project
from fedhealth.lead.provision import provision_consortium
from fedhealth.lead.server import SuperExec, open_listener, serve_superlink


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def home(tmp_path, monkeypatch):
    def touch(superexec):
        raise AssertionError("the SuperExec of the running server was touched")

    monkeypatch.setattr(SuperExec, "stop", touch)
    monkeypatch.setattr(SuperExec, "ensure_running", touch)
    before = dict(os.environ)
    yield LeadHome(tmp_path / "lead")
    changed = {name for name, value in os.environ.items() if before.get(name) != value} - {"PYTEST_CURRENT_TEST"}
    assert not changed  # a start that is refused leaves the process as it was


def test_a_second_server_of_the_same_lead_is_refused(home):
    provision_consortium(home, Project("chest", "lead.example:9092"))
    with home.lock_server(), pytest.raises(StartRefusedError, match="is running already"):
        serve_superlink(home)


@pytest.mark.parametrize("key", ["listen", "control_port"])
def test_an_address_in_use_is_refused_and_named(home, taken, key):
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    ports = {"listen": free, "control_port": free} | {key: taken}
    changed = {**ports, "listen": f"127.0.0.1:{ports['listen']}"}
    provision_consortium(home, Project("chest", "lead.example:9092", **changed))
    with pytest.raises(StartRefusedError, match=rf"cannot listen on 127\.0\.0\.1:{taken}: Address already in use"):
        serve_superlink(home)
    with home.lock_server():
        pass


def test_an_address_of_ip_version_6_is_read_without_its_brackets():
    assert Project("chest", "lead.example:9092", listen="[::1]:443").listen_address == ("::1", 443)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_the_address_of_all_of_ipv6_takes_ipv4_too():
    with open_listener("::", 0) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), 5).close()


def test_responses_leave_at_once():
    """Nagle's algorithm held many for 40 ms, and a round of four hospitals took half a second longer."""
    with open_listener("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
