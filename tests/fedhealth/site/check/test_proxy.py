"""The hospital's proxy: a real Squid with and without a password, one that inspects TLS, and every way to fail."""

import pytest

from fedhealth.consortium.certificate_authority import generate_key
from fedhealth.errors import TrustError
from fedhealth.flower.client.fleet_client import connect_to_lead
from fedhealth.flower.client.http_client import ConnectionLostError
from fedhealth.site.check.base import CheckStatus
from fedhealth.site.check.network import check_network
from fedhealth.site.policy import ProxySettings
from tests.fedhealth.flower.client.lead import Lead
from tests.fedhealth.site.check.squid import find_free_port, inspect_tls, run_squid
from tests.fedhealth.site.check.tls import HOST, Authority, serving

USER, WORD = "fedhealth", "pass:word%40 with spaces"


@pytest.fixture(name="authority", scope="module")
def authority_(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def proxies_unset(monkeypatch):
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(name="secret")
def secret_(tmp_path):
    path = tmp_path / "proxy.txt"
    path.write_text(f"{USER}:{WORD}\n")
    path.chmod(0o600)
    return path


def look(lead, authority, settings):
    return {check.name: check for check in check_network(lead, authority.path, settings)}


def connect(lead, authority, settings):
    """Connect as the site's daemon does."""
    proxy = settings.find(lead)
    with connect_to_lead(lead, str(authority.path), generate_key(), proxy=proxy) as connection:
        return connection.node_id


@pytest.mark.services
def test_squid_without_a_password_lets_daemon_and_check_through(authority):
    server = Lead()
    with server.serving(authority.context()) as lead, run_squid(port_of(lead)) as proxy:
        settings = ProxySettings(f"http://{proxy}")
        assert connect(lead, authority, settings) == 5
        assert server.asked == ["activate-node", "deactivate-node"]
        found = look(lead, authority, settings)
    assert [found[name].status for name in ("proxy", "lead", "TLS")] == ["PASS"] * 3


@pytest.mark.services
def test_squid_with_a_password_lets_those_through_who_know_it(authority, secret):
    with (
        serving(authority.context()) as lead,
        run_squid(port_of(lead), {USER: WORD}) as proxy,
    ):
        found = look(lead, authority, ProxySettings(f"http://{proxy}", secret))
        assert {check.status for check in found.values()} == {CheckStatus.PASS}
        assert USER in found["proxy"].finding
        assert WORD not in str(found)

        found = look(lead, authority, ProxySettings(f"http://{proxy}"))
        assert list(found) == ["proxy"]
        assert "asks for a user and a password" in found["proxy"].finding
        with pytest.raises(ConnectionLostError, match="the proxy opens no connection"):
            connect(lead, authority, ProxySettings(f"http://{proxy}"))

        secret.write_text(f"{USER}:another")
        found = look(lead, authority, ProxySettings(f"http://{proxy}", secret))
        assert "refuses the user and the password" in found["proxy"].finding
        assert "proxy.credentials" in found["proxy"].fix
        with pytest.raises(ConnectionLostError, match="the proxy opens no connection"):
            connect(lead, authority, ProxySettings(f"http://{proxy}", secret))


@pytest.mark.services
def test_squid_says_what_it_cannot_reach(authority):
    closed = find_free_port()
    with run_squid(closed) as proxy:
        settings = ProxySettings(f"http://{proxy}")
        assert "cannot connect to the lead's server" in look(f"{HOST}:{closed}", authority, settings)["proxy"].finding
        unknown = look(f"no-such-host.invalid:{closed}", authority, settings)["proxy"]
        assert "cannot find the name of the lead's server" in unknown.finding
        forbidden = look(f"{HOST}:{closed + 1}", authority, settings)["proxy"]
        assert "does not allow this connection" in forbidden.finding
        assert f"CONNECT to {HOST}:{closed + 1}" in forbidden.fix


def port_of(lead):
    return int(lead.rpartition(":")[2])


def test_a_proxy_that_inspects_tls_is_named_and_told_nothing(authority, tmp_path):
    inspector = Authority(tmp_path / "inspector", name="web-filter")
    with inspect_tls(inspector.context()) as proxy:
        settings = ProxySettings(f"http://{proxy}")
        found = look(f"{HOST}:9092", authority, settings)
        with pytest.raises(TrustError, match="certificate"):
            connect(f"{HOST}:9092", authority, settings)
    assert found["TLS"].status == CheckStatus.FAIL
    assert f"the proxy {proxy} opens TLS connections" in found["TLS"].finding
    assert "web-filter" in found["TLS"].finding
    assert "exempt" in found["TLS"].fix


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\nX-Squid-Error: ERR_CANNOT_FORWARD 0\r\n\r\n", "cannot find the name"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer like an HTTP proxy"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "asks for a user and a password"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not allow"),
        (b"HTTP/1.1 503 Service Unavailable\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n\r\n", "cannot find the name"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\nconnection timed out", "cannot connect"),
    ],
)
def test_every_answer_of_a_proxy_is_explained(authority, answer, finding):
    with inspect_tls(None, answer) as proxy:
        found = look("lead.example:9092", authority, ProxySettings(f"http://{proxy}"))
    assert list(found) == ["proxy"]
    assert finding in found["proxy"].finding
    assert found["proxy"].fix


def test_a_proxy_that_answers_in_place_of_the_lead_is_named(authority):
    with inspect_tls(None) as proxy:  # closes the tunnel
        found = look(f"{HOST}:9092", authority, ProxySettings(f"http://{proxy}"))
    assert found["TLS"].status == CheckStatus.FAIL
    assert proxy in found["TLS"].fix


def test_a_proxy_that_is_not_there_is_named(authority):
    port = find_free_port()
    closed = look(f"{HOST}:9092", authority, ProxySettings(f"http://{HOST}:{port}"))
    assert f"nothing listens at the proxy's address {HOST}:{port}" in closed["proxy"].finding
    unknown = look(f"{HOST}:9092", authority, ProxySettings("http://no-such-proxy.invalid:3128"))
    assert "the name of the proxy no-such-proxy.invalid:3128 is not known" in unknown["proxy"].finding


def test_a_proxy_of_the_shell_alone_is_a_warning(authority, monkeypatch):
    with serving(authority.context()) as lead, inspect_tls(authority.context()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
        assert look(lead, authority, ProxySettings())["proxy"].status == CheckStatus.WARN
        assert "proxy" not in look(lead, authority, ProxySettings("none"))
        monkeypatch.setenv("NO_PROXY", HOST)
        assert "proxy" not in look(lead, authority, ProxySettings())
