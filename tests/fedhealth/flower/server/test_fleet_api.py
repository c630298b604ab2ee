"""The hospitals' listener on Flower's own database: runs that it does not know, and ends between two steps."""

import asyncio
import json

import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PullMessagesResponse
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import ApiErrorCode

from fedhealth.flower.server.fleet_api import FLEET_PREFIX, FleetApi
from fedhealth.flower.server.long_polling import LongPolling
from fedhealth.flower.server.message_redelivery import MessageRedelivery
from fedhealth.flower.server.site_contacts import SiteContacts, load_contacts
from fedhealth.protocol.site_report import REPORT_HEADER, SiteReport
from tests.fedhealth.lead.server import Site

LOST = 4711


def asked(site, action):
    about = {"node": Node(node_id=site.node), "run_id": LOST}
    if action == "push-messages":
        request = site.answer("late")[1]
        request.messages_list[0].metadata.run_id = LOST
        return request
    kind = {"get-run": GetRunRequest, "pull-object": PullObjectRequest, "push-object": PushObjectRequest}[action]
    return kind(**about)


@pytest.fixture(name="site")
def site_(tmp_path, monkeypatch):
    monkeypatch.setattr("fedhealth.flower.server.fleet_api.authenticate_node", lambda request: None)
    return Site(tmp_path / "superlink.db")


def ask(site, delivered, action, request, report=""):
    """Return status and body of the answer to a request."""
    body, sent = request.SerializeToString(), []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    headers = [(b"content-length", str(len(body)).encode()), (REPORT_HEADER.encode(), report.encode())]
    scope = {"type": "http", "method": "POST", "path": FLEET_PREFIX + action, "headers": headers}
    contacts = SiteContacts(delivered._folder.parent / "contacts")
    asyncio.run(FleetApi(site.app, LongPolling(), delivered, contacts)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize("action", ["get-run", "pull-object", "push-object", "push-messages"])
def test_a_site_is_told_that_a_run_is_over_which_is_not_known(tmp_path, site, action):
    delivered = MessageRedelivery(tmp_path / "delivered")
    question = site.answer("late")[1].messages_list[0]
    question.metadata.message_id = question.metadata.reply_to_message_id
    delivered.record(site.node, PullMessagesResponse(messages_list=[question]))
    status, body = ask(site, delivered, action, asked(site, action))
    assert status == 403
    assert json.loads(body)["code"] == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED


def pulled(site, delivered):
    status, body = ask(site, delivered, "pull-messages", PullMessagesRequest(node=Node(node_id=site.node)))
    return status, [each.metadata.message_id for each in PullMessagesResponse.FromString(body).messages_list]


class EndsBefore(MessageRedelivery):
    """A server that ends before it has written down what it hands over."""

    def record(self, node, answer):
        raise OSError


class EndsAfter(MessageRedelivery):
    """A server that ends when it has written that down, and nothing else."""

    def record(self, node, answer):
        super().record(node, answer)
        raise OSError


@pytest.mark.parametrize("ends", [EndsBefore, EndsAfter])
def test_a_server_that_ends_while_it_hands_a_question_over_hands_it_over_again(tmp_path, site, ends):
    asked = [site.question.metadata.message_id]
    assert pulled(site, ends(tmp_path / "delivered")) == (500, [])
    delivered = MessageRedelivery(tmp_path / "delivered")
    ask(site, delivered, "activate-node", ActivateNodeRequest(public_key=b"key", heartbeat_interval=30.0))
    assert pulled(site, delivered) == (200, asked)


def test_a_question_is_handed_over_once_more_to_who_connects_anew(tmp_path, site):
    asked, delivered = [site.question.metadata.message_id], MessageRedelivery(tmp_path / "delivered")
    assert [pulled(site, delivered) for _ in range(2)] == [(200, asked), (200, [])]
    ask(site, delivered, "activate-node", ActivateNodeRequest(public_key=b"key", heartbeat_interval=30.0))
    assert [pulled(site, delivered) for _ in range(2)] == [(200, asked), (200, [])]


def test_a_request_is_noted_with_what_the_site_reports(tmp_path, site):
    delivered, report = MessageRedelivery(tmp_path / "delivered"), SiteReport("0.1.0", "ab" * 32, 7)
    request = PullMessagesRequest(node=Node(node_id=site.node))
    assert ask(site, delivered, "pull-messages", request, report.dumps())[0] == 200
    assert load_contacts(tmp_path / "contacts")[site.node].report == report


@pytest.mark.parametrize(
    "headers",
    [[], [(b"content-length", b"99999999999")], [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")]],
)
def test_a_body_without_a_certain_size_is_not_read(tmp_path, headers):
    sent = []

    async def receive():
        raise AssertionError

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": FLEET_PREFIX + "pull-messages", "headers": headers}
    delivered, contacts = MessageRedelivery(tmp_path / "delivered"), SiteContacts(tmp_path / "contacts")
    asyncio.run(FleetApi(None, LongPolling(), delivered, contacts)(scope, receive, send))
    assert sent[0]["status"] == 413
