"""A bare TLS request sends and receives exactly the bytes that it is compared by."""

import socket

import pytest

from benchmarks import bare_tls
from benchmarks.bare_tls import Certificates, measure_requests
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import Project
from fedhealth.lead.provision import provision_consortium


def test_every_request_carries_the_bytes_there_and_back(tmp_path, monkeypatch):
    lead, received = LeadHome(tmp_path / "lead"), []
    provision_consortium(lead, Project("bench", "127.0.0.1:9000", listen="127.0.0.1:9000", control_port=9001))
    receive = bare_tls._receive

    def note(connection, size):
        receive(connection, size)
        received.append(size)

    monkeypatch.setattr(bare_tls, "_receive", note)
    cost = measure_requests(Certificates(lead.certificate, lead.server_key, lead.ca), 5000, 200_000, 2, repeats=3)
    assert received == [200_000] * 7  # one is not counted
    assert cost.cpu > 0
    assert cost.wall > 0


def test_a_connection_that_ends_early_is_an_error():
    own, other = socket.socketpair()
    with own:
        with other:
            other.sendall(b"abc")
        with pytest.raises(ConnectionError, match="3 of 4 bytes"):
            bare_tls._receive(own, 4)
