"""Starting a consortium on one machine: what is waited for is said, and a process that ends says why."""

import socket
import sys
import time

import pytest

from fedhealth.errors import ConfigError
from fedhealth.runtime import local_consortium
from fedhealth.runtime.local_consortium import LocalConsortium


@pytest.fixture(name="poc")
def poc_(tmp_path):
    poc = LocalConsortium(tmp_path, {f"h{number}": tmp_path for number in range(4)})
    yield poc
    poc.stop()


def test_a_process_that_ends_shows_the_end_of_its_log(poc):
    poc.start_site("h0")  # it has no site.yaml
    with pytest.raises(ConfigError, match="h0 ended") as caught:
        poc.wait_until(lambda: False, "the site", 60)
    assert "fedhealth site install" in str(caught.value)  # what to do, from its log
    first = (poc.root / "h0.log").read_text().splitlines()[0]
    assert sys.executable in first
    assert first.endswith(f"site start --home {poc.site_home('h0').path}")


def test_the_time_for_sites_grows_with_the_time_that_the_server_took(poc):
    assert poc.site_seconds == 300
    poc.start_seconds = 20.0
    assert poc.site_seconds == 800


def test_progress_is_reported_while_sites_connect(poc):
    class Control:
        online = 0

        def list_nodes(self):
            self.online += 1
            return [type("Node", (), {"status": "online"})] * self.online

    lines, control = [], Control()
    poc.report = lines.append
    poc.wait_until(lambda: poc.are_all_online(control), "all sites to connect", 60)
    assert lines == [f"{count} of 4 sites are connected" for count in (1, 2, 3, 4)]
    begin = time.monotonic()
    with pytest.raises(ConfigError, match=r"0\.2 s have passed"):
        poc.wait_until(lambda: False, "nothing", 0.2)
    assert time.monotonic() - begin < 10


def test_free_ports_are_none_that_an_outgoing_connection_may_take(monkeypatch):
    first, second = local_consortium.find_free_ports()
    assert first != second
    assert {first, second} <= set(local_consortium._PORTS)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        monkeypatch.setattr(local_consortium, "_PORTS", [busy.getsockname()[1]] * local_consortium._ATTEMPTS)
        assert busy.getsockname()[1] not in local_consortium.find_free_ports()
