"""TLS, port and clock against real servers: the right one passes, every other one is named."""

import socket
import threading
from datetime import UTC, datetime, timedelta

import pytest

from fedhealth.site.check import network
from fedhealth.site.check.base import CheckStatus
from fedhealth.site.check.network import check_network, compare_clocks
from fedhealth.site.policy import ProxySettings
from tests.fedhealth.site.check.tls import HOST, Authority, serving


@pytest.fixture(name="authority", scope="module")
def authority_(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def looked_at(lead, authority):
    return {check.name: check for check in check_network(lead, authority.path, ProxySettings())}


def test_the_right_server_passes(authority):
    with serving(authority.context()) as lead:
        found = looked_at(lead, authority)
    assert {name: check.status for name, check in found.items()} == dict.fromkeys(["lead", "TLS", "clock"], "PASS")
    assert "TLSv1.3" in found["TLS"].finding
    assert "valid for 365 more days" in found["TLS"].finding


def test_a_foreign_certificate_is_refused_and_its_issuer_named(authority, tmp_path):
    proxy = Authority(tmp_path / "proxy", name="web-filter")
    with serving(proxy.context()) as lead:
        found = looked_at(lead, authority)
    assert found["TLS"].status == CheckStatus.FAIL
    assert "web-filter" in found["TLS"].finding
    assert "proxy" in found["TLS"].fix
    assert "clock" not in found  # nothing is believed of such a server


def test_an_expired_certificate_is_refused(authority):
    with serving(authority.context(days=10, began=datetime.now(UTC) - timedelta(days=20))) as lead:
        found = looked_at(lead, authority)
    assert found["TLS"].status == CheckStatus.FAIL
    assert found["TLS"].finding == "the lead's certificate has expired"
    assert "lead renew" in found["TLS"].fix


def test_a_certificate_that_ends_soon_is_a_warning(authority):
    with serving(authority.context(days=5)) as lead:
        assert looked_at(lead, authority)["TLS"].status == CheckStatus.WARN


@pytest.mark.parametrize("names", [("lead.example",), ("127.0.0.2",)])
def test_a_certificate_for_another_name_is_refused(authority, names):
    with serving(authority.context(names)) as lead:
        found = looked_at(lead, authority)
    assert found["TLS"].status == CheckStatus.FAIL
    assert f"for another name than {HOST}" in found["TLS"].finding


def test_a_server_without_tls_is_refused(authority):
    with serving() as lead:
        found = looked_at(lead, authority)
    assert found["TLS"].status == CheckStatus.FAIL
    assert "no TLS at" in found["TLS"].finding


def test_nobody_answers(authority):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
    found = looked_at(f"{HOST}:{port}", authority)
    assert list(found) == ["lead"]
    assert found["lead"].status == CheckStatus.FAIL
    assert "whether its server is running" in found["lead"].fix
    unknown = looked_at("no-such-host.invalid:9092", authority)
    assert unknown["lead"].status == CheckStatus.FAIL
    assert "DNS" in unknown["lead"].fix


def test_a_server_that_never_speaks_is_given_up(authority, monkeypatch):
    monkeypatch.setattr(network, "_TIMEOUT_SECONDS", 0.2)
    with socket.create_server((HOST, 0)) as silent:
        found = looked_at(f"{HOST}:{silent.getsockname()[1]}", authority)
    assert "no response" in found["TLS"].finding


@pytest.mark.parametrize(("ahead", "result"), [(-3600, "FAIL"), (3600, "FAIL"), (120, "WARN"), (None, "WARN")])
def test_clocks_that_differ_are_noticed(authority, ahead, result):
    with serving(authority.context(), ahead) as lead:
        assert looked_at(lead, authority)["clock"].status == result


def test_the_direction_of_the_difference_is_told():
    now = datetime.now(UTC)
    assert "500 s ahead of" in compare_clocks(now, now.timestamp() + 500).finding
    assert "500 s behind" in compare_clocks(now, now.timestamp() - 500).finding


def test_rubbish_after_the_handshake_is_no_clock(authority):
    def answer(server):
        peer, _ = server.accept()
        with context.wrap_socket(peer, server_side=True) as secured:
            secured.recv(1000)
            secured.sendall(b"\x00" * 100)

    context = authority.context()
    with socket.create_server((HOST, 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        found = looked_at(f"{HOST}:{server.getsockname()[1]}", authority)
        thread.join()
    assert found["TLS"].status == CheckStatus.PASS
    assert found["clock"].status == CheckStatus.WARN
