"""Questions answered past Flower's middleware: kept while there is nothing to say, refused as Flower would."""

import asyncio
import json

import pytest
from fastapi import HTTPException
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest, PushObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.error import ApiErrorCode, FlowerError

from fedhealth.flower.server.long_polling import TO_LEAD, LongPolling
from fedhealth.flower.server.rpc_handler import RpcHandler
from fedhealth.flower.server.runtime_api import RuntimeApi

KINDS = {
    "pull-messages": PullAppMessagesRequest,
    "pull-object": PullObjectRequest,
    "push-object": PushObjectRequest,
}
THERE = PullObjectResponse(object_found=True, object_available=True, object_content=b"x")
REPLY = PullAppMessagesResponse(message_object_trees=[{"object_id": "reply"}])


class Work:
    """Answers every question with the next of its answers; keeps what was asked, and by whom."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, action, asked, request):
        self.asked.append((action, asked, request.headers.get("token")))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer, ["a thing", "another"] if action == "push-object" else []


async def call(app, *first, body=b"", path="", hung_up=False):
    """Return status and body of the answer to a request in two parts."""
    sent, parts = (
        [],
        [
            {"type": "http.request", "body": body[:3], "more_body": True},
            {"type": "http.disconnect"} if hung_up else {"type": "http.request", "body": body[3:]},
        ],
    )

    async def receive():
        return parts.pop(0) if parts else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"token", b"mine")]}
    await app(*first, scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


def ask(work, action, message=None, seconds=5, arrivals=None, **how):
    direct = RpcHandler(None, arrivals or LongPolling(), KINDS, work, TO_LEAD)

    async def respond(scope, receive, send):
        await direct.respond(action, scope, receive, send, seconds)

    body = message.SerializeToString() if message is not None else b""
    return call(respond, **{"body": body, **how})


def test_a_question_is_kept_until_there_is_an_answer():
    async def play():
        arrivals, work = LongPolling(), Work(PullAppMessagesResponse(), REPLY)
        asyncio.get_running_loop().call_later(0.05, arrivals.notify, TO_LEAD)
        asked = PullAppMessagesRequest(message_ids=["which"])
        assert await ask(work, "pull-messages", asked, arrivals=arrivals) == (200, REPLY.SerializeToString())
        assert work.asked == [("pull-messages", asked, "mine")] * 2

    asyncio.run(play())


def test_an_object_that_is_on_its_way_is_waited_for():
    async def play():
        arrivals, work = LongPolling(), Work(PullObjectResponse(object_found=True), THERE)
        asyncio.get_running_loop().call_later(0.05, arrivals.notify, "thing")
        asked = PullObjectRequest(object_id="thing")
        assert await ask(work, "pull-object", asked, arrivals=arrivals) == (200, THERE.SerializeToString())

    asyncio.run(play())


def test_after_the_time_the_asker_hears_that_there_is_none():
    work = Work(PullAppMessagesResponse())
    assert asyncio.run(ask(work, "pull-messages", seconds=0.05)) == (200, b"")


def test_what_arrives_with_a_question_wakes_those_who_wait_for_it():
    async def play():
        arrivals = LongPolling()
        expected = arrivals.subscribe("a thing"), arrivals.subscribe("another")
        await ask(Work(PushObjectResponse()), "push-object", PushObjectRequest(object_id="thing"), arrivals=arrivals)
        assert all(event.is_set() for event in expected)

    asyncio.run(play())


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (FlowerError(ApiErrorCode.RUNTIME_AUTHENTICATION_FAILED, "inside"), 401, "code"),
        (HTTPException(401, "Who?"), 401, "detail"),
        (ValueError("inside"), 500, None),
    ],
)
def test_a_refusal_says_what_flower_would_and_nothing_of_the_inside(fault, status, said):
    answered, body = asyncio.run(ask(Work(fault), "pull-messages"))
    assert answered == status
    assert b"inside" not in body
    assert (said is None and body == b"") or said in json.loads(body)


def test_what_cannot_be_read_or_is_cut_off_is_refused_and_nobody_is_asked():
    work = Work()
    assert asyncio.run(ask(work, "pull-object", body=b"\xff garbage"))[0] == 400
    assert asyncio.run(ask(work, "pull-object", PullObjectRequest(object_id="thing"), hung_up=True))[0] == 400
    assert work.asked == []


@pytest.mark.parametrize("path", ["/v1/runtime/acquire-task", "/v1/control/list-runs", "/pull-messages"])
def test_everything_else_on_loopback_is_for_flowers_application(path):
    async def flower(scope, receive, send):
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    assert asyncio.run(call(RuntimeApi(flower, LongPolling(), None), path=path)) == (418, path.encode())
