import pytest
from flwr.proto.message_pb2 import ObjectTree

from fedhealth.flower.client.fleet_client import Task
from fedhealth.flower.client.pending_message import Inbox

TASK = Task(
    2**63 + 5, b"\x00head\xff", ObjectTree(object_id="a", children=[ObjectTree(object_id="b")]), "a", "train.fit"
)


def test_a_message_is_there_after_a_crash_until_it_is_answered(tmp_path):
    path = tmp_path / "inbox.json"
    Inbox(path).keep(TASK)
    assert Inbox(path).waiting() == TASK
    Inbox(path).clear()
    assert Inbox(path).waiting() is None
    Inbox(path).clear()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"run": 1}', b'{"run": 1, "head": "%", "tree": "", "kind": 1}']
)
def test_what_cannot_be_read_is_no_message(tmp_path, content):
    path = tmp_path / "inbox.json"
    path.write_bytes(content)
    assert Inbox(path).waiting() is None
