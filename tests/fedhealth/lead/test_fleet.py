"""What the hospitals' listener says of a run that it does not know, such as after an old database was put back."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import ApiErrorCode

from fedhealth.lead.arrivals import Arrivals
from fedhealth.lead.delivered import Delivered
from fedhealth.lead.fleet import FLEET, Fleet
from tests.fedhealth.lead.server import Site

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # of Flower's migrations
LOST = 4711


def asked(site, action):
    about = {"node": Node(node_id=site.node), "run_id": LOST}
    if action == "push-messages":
        request = site.answer("late")[1]
        request.messages_list[0].metadata.run_id = LOST
        return request
    kind = {"get-run": GetRunRequest, "pull-object": PullObjectRequest, "push-object": PushObjectRequest}[action]
    return kind(**about)


@pytest.mark.parametrize("action", ["get-run", "pull-object", "push-object", "push-messages"])
def test_a_site_is_told_that_it_is_over(tmp_path, monkeypatch, action):
    monkeypatch.setattr("fedhealth.lead.fleet.authenticate_node", lambda request: None)
    site = Site(tmp_path / "superlink.db")
    delivered = Delivered(tmp_path / "delivered")
    question = site.answer("late")[1].messages_list[0]
    question.metadata.message_id = question.metadata.reply_to_message_id
    delivered.took(site.node, PullMessagesResponse(messages_list=[question]))
    app = SimpleNamespace(state=SimpleNamespace(linkstate_factory=SimpleNamespace(state=lambda: site.state)))
    body, sent = asked(site, action).SerializeToString(), []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    headers = [(b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": FLEET + action, "headers": headers}
    asyncio.run(Fleet(app, Arrivals(), delivered)(scope, receive, send))
    assert sent[0]["status"] == 403
    assert json.loads(sent[1]["body"])["code"] == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED
