"""A reply that a site made up is an error of this site; the others in the same response arrive."""

import hashlib
import json

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, ObjectTree, PullObjectResponse
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from fedhealth.flower.client.message_codec import encode_message
from fedhealth.flower.compat import set_message_id, set_task_identity
from fedhealth.flower.in_process_grid import InProcessGrid
from fedhealth.flower.server.reply_grid import ReplyGrid, check_replies
from fedhealth.protocol.refusals import describe_error

RUN, HONEST, LIAR = 7, 11, 12


class Server:
    """What the grid needs of its client: replies wait until they are confirmed."""

    def __init__(self, replies):
        self.response = PullAppMessagesResponse(
            messages_list=[header for header, _, _ in replies], message_object_trees=[tree for _, tree, _ in replies]
        )
        self.objects = {name: part for _, _, objects in replies for name, part in objects.items()}
        self.confirmed = []

    def PullMessages(self, request):
        return self.response

    def PullObject(self, request):
        content = self.objects.get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None, object_available=content is not None, object_content=content
        )

    def ConfirmMessageReceived(self, request):
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()


def ask(node):
    set_task_identity(RUN, 1)
    question = Message(RecordDict(), node, "train.fit")
    set_message_id(question, f"question {node}")
    return question


def answer(node, content):
    """A reply as a site's client sends it: its header, its tree and its objects."""
    question = ask(node)
    set_task_identity(RUN, node)
    encoded = encode_message(Message(content, reply_to=question))
    return MessageProto.FromString(encoded.header), ObjectTree.FromString(encoded.tree), dict(encoded.objects)


def build_object(kind, body, children=()):
    """An object and its name, as the server stores any whose hash and length are right."""
    content = f"{kind} {','.join(children)} {len(body)}".encode() + b"\x00" + body
    return hashlib.sha256(content).hexdigest(), content


def answer_with(objects, root, tree=None):
    header, _, _ = answer(LIAR, RecordDict())
    header.metadata.message_id = root
    return header, tree or ObjectTree(object_id=root), objects


def lie_no_message():
    name, content = build_object("ConfigRecord", b"")
    return answer_with({name: content}, name)


def lie_no_protobuf():
    name, content = build_object("Message", b"\xff" * 9)
    return answer_with({name: content}, name)


def lie_no_child():
    name, content = build_object("Message", MessageProto().SerializeToString())
    return answer_with({name: content}, name)


def lie_child_not_sent():
    name, content = build_object("Message", MessageProto().SerializeToString(), ["0" * 64])
    return answer_with({name: content}, name)


def lie_with(kind, body, children=()):
    child, part = build_object(kind, body, children)
    root, content = build_object("Message", MessageProto().SerializeToString(), [child])
    return answer_with(
        {child: part, root: content}, root, ObjectTree(object_id=root, children=[ObjectTree(object_id=child)])
    )


def lie_too_deep():
    """Two thousand records in each other, which the tree shows side by side."""
    objects, name = {}, ""
    for _ in range(2000):
        name, content = build_object("RecordDict", b"{}", [name] if name else [])
        objects[name] = content
    root, content = build_object("Message", MessageProto().SerializeToString(), [name])
    tree = ObjectTree(object_id=root, children=[ObjectTree(object_id=each) for each in objects])
    return answer_with({**objects, root: content}, root, tree)


LIES = {
    "no message": lie_no_message,
    "no protobuf": lie_no_protobuf,
    "no child": lie_no_child,
    "child not sent": lie_child_not_sent,
    "content is a record": lambda: lie_with("ConfigRecord", b""),
    "no JSON": lambda: lie_with("RecordDict", b"\xff"),
    "a list": lambda: lie_with("RecordDict", b"[1]"),
    "deep JSON": lambda: lie_with("RecordDict", b"[" * 100_000),
    "other children": lambda: lie_with("RecordDict", json.dumps({"update": "1" * 64}).encode()),
    "too deep": lie_too_deep,
}


def pull(*replies):
    server = Server(replies)
    grid = HttpGrid(token="t")
    grid._client = server
    grid.set_run(Run.create_empty(RUN))
    return server, list(ReplyGrid(grid).pull_messages(["question 11", "question 12"]))


@pytest.mark.parametrize("lie", LIES)
def test_a_reply_that_cannot_be_read_is_an_error_of_its_site_alone(lie, caplog):
    true = RecordDict({"said": ConfigRecord({"word": "yes"})})
    server, (before, bad, after) = pull(answer(HONEST, true), LIES[lie](), answer(HONEST, true))
    assert [before.content, after.content] == [true, true]
    assert bad.metadata.reply_to_message_id == "question 12"
    assert describe_error(bad.error.code, bad.error.reason).startswith("FederationError")
    assert len(server.confirmed) == 3
    assert "node 12" in caplog.text


def test_a_reply_cannot_say_that_it_is_another_sites():
    _, tree, objects = answer(HONEST, RecordDict({"said": ConfigRecord({"word": "no"})}))
    header, _, _ = answer(LIAR, RecordDict())
    header.metadata.message_id = tree.object_id
    _, (reply,) = pull((header, tree, objects))
    assert (reply.metadata.src_node_id, reply.metadata.reply_to_message_id) == (LIAR, "question 12")
    assert reply.content["said"]["word"] == "no"


def test_a_reply_whose_objects_are_gone_is_an_error_and_not_confirmed(caplog):
    header, tree, _ = answer(LIAR, RecordDict({"said": ConfigRecord({"word": "yes"})}))
    server, (reply,) = pull((header, tree, {}))
    assert reply.has_error()
    assert reply.metadata.reply_to_message_id == "question 12"
    assert server.confirmed == []
    assert "not complete" in caplog.text


def test_an_error_stays_one():
    question = ask(LIAR)
    set_task_identity(RUN, LIAR)
    encoded = encode_message(Message(Error(1001, "ConfigError"), reply_to=question))
    sent = MessageProto.FromString(encoded.header), ObjectTree.FromString(encoded.tree), dict(encoded.objects)
    _, (reply,) = pull(sent)
    assert (reply.error.code, reply.error.reason) == (1001, "ConfigError")


def test_only_the_grid_of_a_server_is_wrapped():
    inner = InProcessGrid(None, ["north"], {})
    assert check_replies(inner) is inner
    assert isinstance(check_replies(HttpGrid(token="t")), ReplyGrid)
