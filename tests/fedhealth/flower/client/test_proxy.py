"""Which proxy is used, what it is told, and that this machine's own addresses are asked for directly."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import ConfigError, TrustError
from fedhealth.flower.client.proxy import ENVIRONMENT, Proxy, find_proxy, keep_loopback_direct
from fedhealth.flower.server.control_client import ControlClient
from fedhealth.lead.home import LeadHome
from fedhealth.lead.server import build_environment

LEAD = "lead.example:9092"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


def test_the_address_of_the_policy_counts(environment):
    environment.setenv("HTTPS_PROXY", "http://other.example:1")
    environment.setenv("NO_PROXY", "*")
    assert find_proxy("http://proxy.example:3128", None, LEAD) == Proxy("proxy.example", 3128)
    assert find_proxy("proxy.example:3128", None, LEAD) == Proxy("proxy.example", 3128)
    assert find_proxy("http://[2001:db8::1]:3128", None, LEAD).address == "[2001:db8::1]:3128"
    assert find_proxy("none", None, LEAD) is None


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_the_environment_counts_otherwise(environment, name):
    assert find_proxy(ENVIRONMENT, None, LEAD) is None
    environment.setenv(name, "http://me:a%40b@proxy.example:3128/")
    assert find_proxy(ENVIRONMENT, None, LEAD) == Proxy("proxy.example", 3128, "me", "a@b", "the environment")


@pytest.mark.parametrize("exempt", ["lead.example", ".example", "a.example, lead.example", "lead.example:9092", "*"])
def test_no_proxy_exempts_the_lead(environment, exempt):
    environment.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    environment.setenv("NO_PROXY", "elsewhere.example")
    assert find_proxy(ENVIRONMENT, None, LEAD) is not None
    environment.setenv("NO_PROXY", exempt)
    assert find_proxy(ENVIRONMENT, None, LEAD) is None


@pytest.mark.parametrize("address", ["https://p:1", "socks5://p:1", "http://", "http://p:99999", "http://p:1/x?y", ""])
def test_another_address_is_refused_and_no_password_is_repeated(address):
    with pytest.raises(ConfigError) as refused:
        find_proxy(address.replace("//p", "//me:secret@p"), None, LEAD)
    assert "secret" not in str(refused.value)


def test_a_password_is_read_from_a_private_file(tmp_path):
    path = tmp_path / "proxy.txt"
    path.write_text("me:a:b c\n")
    path.chmod(0o644)
    with pytest.raises(TrustError):
        find_proxy("http://p:1", path, LEAD)
    path.chmod(0o600)
    found = find_proxy("http://p:1", path, LEAD)
    assert (found.user, found.password) == ("me", "a:b c")
    assert "a:b c" not in repr(found)


@given(st.one_of(st.just(b""), st.just(b"no colon"), st.just(b":x"), st.just(b"a:b\nc:d"), st.just(b"\xff:\xff")))
def test_a_malformed_password_file_is_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("proxy") / "proxy.txt"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="one line user:password"):
        find_proxy("http://p:1", path, LEAD)


def test_the_leads_token_goes_to_no_proxy(environment):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            environment.setenv(name, f"http://127.0.0.1:{trap.getsockname()[1]}")
        with ControlClient(9, "token") as control, pytest.raises(ConfigError, match="no server"):
            control.list_nodes()
        trap.settimeout(0.2)
        with pytest.raises(TimeoutError):
            trap.accept()


@pytest.mark.parametrize("known", ["", "a.example", "127.0.0.1"])
def test_flowers_processes_ask_this_machine_directly(environment, tmp_path, known):
    environment.setenv("NO_PROXY", known)
    listed = keep_loopback_direct()["NO_PROXY"].split(",")
    assert {"127.0.0.1", "localhost"} <= set(listed)
    assert len(listed) == len(set(listed))
    assert set(filter(None, [known])) <= set(listed)
    assert build_environment(LeadHome(tmp_path))["NO_PROXY"] == keep_loopback_direct()["no_proxy"]
