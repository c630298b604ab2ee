import pytest
from flwr.proto.message_pb2 import ObjectTree

from fedhealth.flower.client.fleet_client import PulledMessage
from fedhealth.flower.client.pending_message import PendingMessage

MESSAGE = PulledMessage(
    2**63 + 5, b"\x00head\xff", ObjectTree(object_id="a", children=[ObjectTree(object_id="b")]), "a", "train.fit"
)


def test_a_message_is_there_after_a_crash_until_it_is_answered(tmp_path):
    path = tmp_path / "inbox.json"
    PendingMessage(path).save(MESSAGE)
    assert PendingMessage(path).load() == MESSAGE
    PendingMessage(path).clear()
    assert PendingMessage(path).load() is None
    PendingMessage(path).clear()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"run": 1}', b'{"run": 1, "head": "%", "tree": "", "kind": 1}']
)
def test_what_cannot_be_read_is_no_message(tmp_path, content):
    path = tmp_path / "inbox.json"
    path.write_bytes(content)
    assert PendingMessage(path).load() is None
