"""Questions are kept until there is an answer: nobody is woken for nothing, and nobody asks for one who has gone."""

import asyncio
import gc

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata, PullObjectResponse

from fedhealth.flower.server.long_polling import TO_SITES, Arrivals, is_on_its_way
from fedhealth.flower.server.message_redelivery import Delivered


async def never():
    await asyncio.Event().wait()


async def gone():
    return {"type": "http.disconnect"}


def test_what_arrives_wakes_those_who_wait_for_it_and_nobody_else():
    async def play():
        arrivals = Arrivals()
        messages, thing = arrivals.expect(TO_SITES), arrivals.expect("an object")
        arrivals.tell("an object")
        assert await arrivals.wait(thing, never, 5)
        assert not await arrivals.wait(messages, never, 0.01)

    asyncio.run(play())


def test_what_arrives_between_the_answer_and_the_waiting_is_not_missed():
    async def play():
        arrivals = Arrivals()
        expected = arrivals.expect(TO_SITES)
        arrivals.tell(TO_SITES)
        assert await arrivals.wait(expected, never, 5)

    asyncio.run(play())


def test_nobody_asks_again_for_one_who_has_hung_up():
    async def play():
        arrivals = Arrivals()
        expected = arrivals.expect(TO_SITES)
        arrivals.tell(TO_SITES)
        assert not await arrivals.wait(expected, gone, 5)

    asyncio.run(play())


def test_the_end_of_the_server_ends_all_waiting():
    async def play():
        arrivals = Arrivals()
        expected = arrivals.expect(TO_SITES)
        asyncio.get_running_loop().call_later(0.01, arrivals.close)
        assert not await arrivals.wait(expected, never, 60)
        assert not await arrivals.wait(arrivals.expect(TO_SITES), never, 60)

    asyncio.run(play())


def test_what_nobody_waits_for_is_not_remembered():
    arrivals = Arrivals()
    for number in range(100):
        arrivals.expect(f"object {number}")
    gc.collect()
    assert not arrivals._expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (PullObjectResponse(object_found=True), True),
        (PullObjectResponse(object_found=True, object_available=True, object_content=b"x"), False),
        (PullObjectResponse(), False),
    ],
)
def test_an_object_on_its_way_is_told_from_one_that_is_there_or_unknown(answer, expected):
    assert is_on_its_way(answer.SerializeToString()) == expected


def handed(name):
    return PullMessagesResponse(messages_list=[Message(metadata=Metadata(message_id=name))])


def test_a_node_that_returns_gets_its_open_message_once(tmp_path):
    delivered = Delivered(tmp_path / "delivered")
    delivered.took(1, handed("first"))
    delivered.took(2, PullMessagesResponse())
    assert delivered.again(1) is None  # it never went
    delivered.returned(1)
    delivered.returned(2)
    assert delivered.again(2) is None
    assert delivered.again(1) == handed("first")
    assert delivered.again(1) is None


def test_a_server_that_was_started_again_knows_it_too(tmp_path):
    Delivered(tmp_path / "delivered").took(1, handed("first"))
    later = Delivered(tmp_path / "delivered")
    later.returned(1)
    assert later.again(1) == handed("first")


def test_an_answered_message_is_not_handed_out_again(tmp_path):
    delivered = Delivered(tmp_path / "delivered")
    delivered.took(1, handed("first"))
    assert delivered.open(1) == "first"
    delivered.answered(1)
    assert delivered.open(1) is None
    delivered.took(1, handed("second"))
    delivered.returned(1)
    assert delivered.again(1) == handed("second")
    delivered.took(1, handed("third"))
    delivered.returned(1)
    delivered.answered(1)  # the site had it after all
    assert delivered.again(1) is None
