"""The connection to a server that is not the lead's, or not itself today: a fault in our own words, nothing sent."""

import threading
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse

from fedhealth.consortium.certificate_authority import generate_key
from fedhealth.errors import FederationError, TrustError
from fedhealth.flower.client import fleet_client as module
from fedhealth.flower.client.fleet_client import PulledMessage, _send_heartbeats, connect_to_lead
from fedhealth.flower.client.http_client import ConnectionLostError, RequestRefusedError
from fedhealth.flower.client.proxy import Proxy, find_proxy
from tests.fedhealth.flower.client.lead import Lead
from tests.fedhealth.site.check.squid import find_free_port, run_squid
from tests.fedhealth.site.check.tls import HOST, Authority

HUGE = 2 * 2**30


@pytest.fixture(name="lead")
def lead_(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return Lead()


@pytest.fixture(name="authority", scope="module")
def authority_(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(name="link")
def link_(lead, authority):
    with (
        lead.serving(authority.context()) as address,
        connect_to_lead(address, str(authority.path), generate_key()) as link,
    ):
        yield link


def test_it_signs_on_and_off(lead, authority):
    with lead.serving(authority.context()) as address:
        with connect_to_lead(address, str(authority.path), generate_key()) as link:
            assert link.node_id == 5
            assert link.pull_message() is None
        assert lead.asked == ["activate-node", "pull-messages", "deactivate-node"]


def expired(authority):
    return authority.context(days=1, began=datetime.now(UTC) - timedelta(days=30))


def foreign(authority):
    return Authority(authority.folder / "foreign").context()


def misnamed(authority):
    return authority.context(names=("elsewhere.example",))


@pytest.mark.parametrize("context", [expired, foreign, misnamed])
def test_a_certificate_that_the_kit_does_not_cover_is_told_nothing(lead, authority, context):
    refused = pytest.raises(TrustError, match="certificate")
    with (
        lead.serving(context(authority)) as address,
        refused,
        connect_to_lead(address, str(authority.path), generate_key()),
    ):
        pass
    assert lead.asked == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_revoked_site_is_told_so(lead, authority, status):
    lead.answers["activate-node"] = (status, b"", None)
    refused = pytest.raises(TrustError, match="does not accept this site's key")
    with (
        lead.serving(authority.context()) as address,
        refused,
        connect_to_lead(address, str(authority.path), generate_key()),
    ):
        pass
    assert lead.asked == ["activate-node"]


def test_nobody_there_is_no_fault_of_trust(authority):
    with pytest.raises(ConnectionLostError), connect_to_lead(f"{HOST}:9", str(authority.path), generate_key()):
        pass


def test_a_proxy_that_cannot_be_reached_is_named(authority):
    proxy = Proxy("127.0.0.1", find_free_port(), source="the environment")
    lost = pytest.raises(ConnectionLostError, match=f"proxy.*{proxy.address}, named by the environment")
    with lost, connect_to_lead(f"{HOST}:9", str(authority.path), generate_key(), proxy=proxy):
        pass


def test_a_proxy_is_not_blamed_for_the_servers_certificate(lead, authority):
    with lead.serving(foreign(authority)) as address, run_squid(int(address.rpartition(":")[2])) as squid:
        proxy = find_proxy(squid, None, address)
        refused = pytest.raises(TrustError, match="certificate")
        with refused, connect_to_lead(address, str(authority.path), generate_key(), proxy=proxy):
            pass


def test_a_server_in_trouble_is_asked_again(lead, link):
    lead.answers["get-run"] = (503, b"later", None)
    with pytest.raises(ConnectionLostError, match="503"):
        link.get_run(1)
    assert lead.asked.count("get-run") == 3


def test_a_message_that_may_have_been_lost_is_for_a_new_connection(lead, link):
    lead.answers["pull-messages"] = (200, b"half", 1000)
    with pytest.raises(ConnectionLostError):
        link.pull_message()
    assert lead.asked.count("pull-messages") == 1


def test_a_refusal_is_final(lead, link):
    lead.answers["pull-messages"] = (404, b"no such run", None)
    with pytest.raises(RequestRefusedError, match="no such run"):
        link.pull_message()
    assert lead.asked.count("pull-messages") == 1


def test_an_answer_of_two_gigabytes_is_not_read(lead, link):
    lead.answers["pull-messages"] = (200, b"x" * 100, HUGE)
    with pytest.raises(ConnectionLostError, match=str(HUGE)):
        link.pull_message()


def test_a_message_of_many_objects_stops_at_the_policys_size(lead, link):
    lead.answers["pull-object"] = (
        200,
        PullObjectResponse(object_found=True, object_available=True, object_content=b"x" * 1000).SerializeToString(),
        None,
    )
    tree = ObjectTree(object_id="0", children=[ObjectTree(object_id=str(number)) for number in range(1, 100_000)])
    with pytest.raises(FederationError, match="larger than 20000 bytes"):
        link.pull_content(PulledMessage(1, b"", tree, "0", "train.fit"), 20_000)
    assert lead.asked.count("pull-object") <= 30


def test_a_missing_part_is_said(lead, link):
    lead.answers["pull-object"] = (200, PullObjectResponse(object_found=False).SerializeToString(), None)
    with pytest.raises(FederationError, match="not on the server"):
        link.pull_content(PulledMessage(1, b"", ObjectTree(object_id="0"), "0", "train.fit"), 100)


def test_it_is_not_sent_elsewhere(lead, link):
    lead.answers["pull-messages"] = (307, b"", None)
    with pytest.raises(ConnectionLostError, match="307"):
        link.pull_message()


def test_garbage_is_a_lost_connection(lead, link):
    lead.answers["pull-messages"] = (200, b"\xff" * 50, None)
    with pytest.raises(ConnectionLostError):
        link.pull_message()


def test_a_message_without_its_tree_is_a_lost_connection(lead, link):
    answer = PullMessagesResponse()
    answer.messages_list.add()
    lead.answers["pull-messages"] = (200, answer.SerializeToString(), None)
    with pytest.raises(ConnectionLostError):
        link.pull_message()


@pytest.mark.parametrize("over", [True, False])
def test_a_beat_that_finds_the_connection_closed_is_a_fault_only_before_the_end(monkeypatch, over):
    monkeypatch.setattr("fedhealth.flower.client.fleet_client.HEARTBEAT_DEFAULT_INTERVAL", 0.01)
    ended = threading.Event()

    class Closed:
        def send_heartbeat(self):
            if over:
                ended.set()
            raise RuntimeError("Cannot send a request, as the client has been closed.")

    with nullcontext() if over else pytest.raises(RuntimeError):
        _send_heartbeats(Closed(), ended)
