"""Questions are kept until there is an answer: nobody is woken for nothing, and nobody asks for one who has gone."""

import asyncio
import gc

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata, PullObjectResponse

from fedhealth.flower.server.long_polling import TO_SITES, LongPolling, is_object_pending
from fedhealth.flower.server.message_redelivery import MessageRedelivery


async def never():
    await asyncio.Event().wait()


async def gone():
    return {"type": "http.disconnect"}


def test_what_arrives_wakes_those_who_wait_for_it_and_nobody_else():
    async def play():
        arrivals = LongPolling()
        messages, thing = arrivals.subscribe(TO_SITES), arrivals.subscribe("an object")
        arrivals.notify("an object")
        assert await arrivals.wait(thing, never, 5)
        assert not await arrivals.wait(messages, never, 0.01)

    asyncio.run(play())


def test_what_arrives_between_the_answer_and_the_waiting_is_not_missed():
    async def play():
        arrivals = LongPolling()
        expected = arrivals.subscribe(TO_SITES)
        arrivals.notify(TO_SITES)
        assert await arrivals.wait(expected, never, 5)

    asyncio.run(play())


def test_nobody_asks_again_for_one_who_has_hung_up():
    async def play():
        arrivals = LongPolling()
        expected = arrivals.subscribe(TO_SITES)
        arrivals.notify(TO_SITES)
        assert not await arrivals.wait(expected, gone, 5)

    asyncio.run(play())


def test_the_end_of_the_server_ends_all_waiting():
    async def play():
        arrivals = LongPolling()
        expected = arrivals.subscribe(TO_SITES)
        asyncio.get_running_loop().call_later(0.01, arrivals.close)
        assert not await arrivals.wait(expected, never, 60)
        assert not await arrivals.wait(arrivals.subscribe(TO_SITES), never, 60)

    asyncio.run(play())


def test_what_nobody_waits_for_is_not_remembered():
    arrivals = LongPolling()
    for number in range(100):
        arrivals.subscribe(f"object {number}")
    gc.collect()
    assert not arrivals._events


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (PullObjectResponse(object_found=True), True),
        (PullObjectResponse(object_found=True, object_available=True, object_content=b"x"), False),
        (PullObjectResponse(), False),
    ],
)
def test_an_object_on_its_way_is_told_from_one_that_is_there_or_unknown(answer, expected):
    assert is_object_pending(answer.SerializeToString()) == expected


def handed(name):
    return PullMessagesResponse(messages_list=[Message(metadata=Metadata(message_id=name))])


def test_a_node_that_returns_gets_its_open_message_once(tmp_path):
    delivered = MessageRedelivery(tmp_path / "delivered")
    delivered.record(1, handed("first"))
    delivered.record(2, PullMessagesResponse())
    assert delivered.take_redelivery(1) is None  # it never went
    delivered.mark_reconnected(1)
    delivered.mark_reconnected(2)
    assert delivered.take_redelivery(2) is None
    assert delivered.take_redelivery(1) == handed("first")
    assert delivered.take_redelivery(1) is None


def test_a_server_that_was_started_again_knows_it_too(tmp_path):
    MessageRedelivery(tmp_path / "delivered").record(1, handed("first"))
    later = MessageRedelivery(tmp_path / "delivered")
    later.mark_reconnected(1)
    assert later.take_redelivery(1) == handed("first")


def test_an_answered_message_is_not_handed_out_again(tmp_path):
    delivered = MessageRedelivery(tmp_path / "delivered")
    delivered.record(1, handed("first"))
    assert delivered.open_message_id(1) == "first"
    delivered.mark_answered(1)
    assert delivered.open_message_id(1) is None
    delivered.record(1, handed("second"))
    delivered.mark_reconnected(1)
    assert delivered.take_redelivery(1) == handed("second")
    delivered.record(1, handed("third"))
    delivered.mark_reconnected(1)
    delivered.mark_answered(1)  # the site had it after all
    assert delivered.take_redelivery(1) is None
