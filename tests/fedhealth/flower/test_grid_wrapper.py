"""Grids around a grid: bundles on the way there and back, everything else unchanged."""

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedhealth.flower.client.message_codec import EncodedMessage, encode_message
from fedhealth.flower.grid_wrapper import BundlingGrid
from fedhealth.flower.in_process_grid import InProcessGrid, reply_in_turn
from fedhealth.flower.record_bundle import BUNDLE


def make_grid(seen: list[RecordDict]) -> BundlingGrid:
    """Return a grid whose two sites decode and encode as a hospital's worker does."""
    app = ClientApp()

    @app.train("fit")
    def fit(message: Message, context: Context) -> Message:
        seen.append(message.content)
        request = decode(message)
        if request.metadata.dst_node_id == 2:
            return Message(Error(1, "no"), reply_to=message)
        reply = Message(RecordDict({**request.content, "own": ConfigRecord({"n": 3})}), reply_to=message)
        encode_message(reply)  # bundles
        seen.append(reply.content)
        return reply

    return BundlingGrid(InProcessGrid(reply_in_turn(app), ["north", "south"], {}))


def decode(message: Message) -> Message:
    copy = Message(message.content, message.metadata.dst_node_id, "train.fit")
    encoded = encode_message(copy)
    return EncodedMessage(encoded.header, encoded.tree, encoded.objects).decode()


def test_requests_and_replies_travel_in_bundles_and_are_read_without() -> None:
    seen: list[RecordDict] = []
    grid = make_grid(seen)
    content = RecordDict({"a": ConfigRecord({"n": 1}), "b": ConfigRecord({"n": 2})})
    (reply,) = grid.send_and_receive([Message(content, 1, "train.fit", group_id="7")])
    assert [set(each) for each in seen] == [{BUNDLE}, {BUNDLE}]
    assert dict(reply.content) == {**content, "own": ConfigRecord({"n": 3})}
    assert set(content) == {"a", "b"}  # the caller's content is not changed, so that it can be pushed again


def test_a_message_keeps_its_metadata_and_an_error_stays_one() -> None:
    seen: list[RecordDict] = []
    grid = make_grid(seen)
    content = RecordDict({"a": ConfigRecord({"n": 1}), "b": ConfigRecord({"n": 2})})
    (reply,) = grid.send_and_receive([Message(content, 2, "train.fit", group_id="7", ttl=60.0)])
    assert reply.has_error()
    assert reply.metadata.group_id == "7"
    assert list(grid.get_node_ids()) == [1, 2]
    assert grid.create_message(content, "train.fit", 1, "7").metadata.dst_node_id == 1
    assert grid.run.run_id
