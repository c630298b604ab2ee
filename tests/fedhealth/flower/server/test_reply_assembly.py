"""An answer counts when all of it is there: on Flower's own database, as a site and a server application see it."""

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.supercore.error import FlowerError
from flwr.superlink.servicer.runtime import runtime_handlers
from google.protobuf.message import DecodeError

from fedhealth.flower.client.message_codec import encode_message
from fedhealth.flower.compat import set_task_identity
from fedhealth.flower.server.reply_assembly import ReplyAssembler
from tests.fedhealth.lead.server import Site


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "superlink.db")


def begun(site, word):
    objects, request = site.answer(word)
    answer = site.incoming.begin(request, site.state)
    assert set(answer.objects_to_push) <= set(objects)
    return objects, request, answer


def test_the_server_application_sees_an_answer_when_its_last_object_is_there(site):
    objects, request, answer = begun(site, "yes")
    *others, last = answer.objects_to_push
    for name in others:
        assert site.part(answer.session_id, name, objects[name])[0].stored
    assert site.shown() == []
    told, done = site.part(answer.session_id, last, objects[last])
    assert (told.stored, done) == (True, request)
    assert len(site.shown()) == 1


def test_another_answer_takes_the_place_of_one_that_was_cut_off(site):
    begun(site, "cut off")
    objects, request, answer = begun(site, "whole")
    ends = [site.part(answer.session_id, name, objects[name])[1] for name in answer.objects_to_push]
    assert ends[-1] == request
    (shown,) = site.shown()
    assert shown.metadata.message_id == request.messages_list[0].metadata.message_id


def test_a_server_that_has_forgotten_the_beginning_lets_it_begin_again(site):
    objects, request, answer = begun(site, "yes")
    first, *others = answer.objects_to_push
    site.part(answer.session_id, first, objects[first])
    site.incoming = ReplyAssembler()
    for name in others:
        assert not site.part(answer.session_id, name, objects[name])[0].stored
    again = site.incoming.begin(request, site.state)
    assert list(again.objects_to_push) == others  # what has no parts, as the values of a model, is not sent twice
    for name in others:
        assert site.part(again.session_id, name, objects[name])[0].stored
    assert len(site.shown()) == 1


def test_an_error_is_begun_again_too(site):
    set_task_identity(site.run, site.node)
    encoded = encode_message(Message(Error(1001, "ConfigError"), reply_to=site.question))
    header, tree = MessageProto.FromString(encoded.header), ObjectTree.FromString(encoded.tree)
    request = PushMessagesRequest(node=Node(node_id=site.node), messages_list=[header], message_object_trees=[tree])
    site.state.object_store.preregister(site.run, tree)  # a server that ended before it stored the message
    site.state.object_store.put(tree.object_id, encoded.objects[tree.object_id])
    answer = site.incoming.begin(request, site.state)
    assert site.part(answer.session_id, tree.object_id, encoded.objects[tree.object_id])[1] == request
    assert len(site.shown()) == 1


def test_a_run_that_has_ended_takes_nothing(site):
    _, request = site.answer("late")
    site.state.stop_run(site.run)
    with pytest.raises(FlowerError):
        site.incoming.begin(request, site.state)


def test_an_answer_without_its_tree_cannot_be_read(site):
    _, request = site.answer("yes")
    request.ClearField("message_object_trees")
    with pytest.raises(DecodeError):
        site.incoming.begin(request, site.state)


def send(site, objects, request):
    """Send a reply whole; return whether the server took it."""
    answer = site.incoming.begin(request, site.state)
    return [site.part(answer.session_id, name, objects[name]) for name in answer.objects_to_push][-1][1] == request


def push_as_lead(site, content):
    """Send a message as the server application does."""
    set_task_identity(site.run, SUPERLINK_NODE_ID)
    encoded = encode_message(Message(content, site.node, "train.fit"))
    header, tree = MessageProto.FromString(encoded.header), ObjectTree.FromString(encoded.tree)
    request = PushAppMessagesRequest(messages_list=[header], message_object_trees=[tree])
    runtime_handlers.push_messages(request, site.state, SimpleNamespace(run_id=site.run))


@pytest.mark.parametrize("claim", ["a part too many", "no parts"])
@pytest.mark.parametrize("is_sent", [False, True])
def test_what_a_site_claims_of_objects_binds_neither_the_lead_nor_other_sites(site, claim, is_sent):
    model = ArrayRecord([np.zeros(9, np.float32)])
    _, request = site.answer("yes")
    lie = ObjectTree(object_id=model.object_id, children=[ObjectTree(object_id="a" * 64)][: claim != "no parts"])
    request.message_object_trees[0].children[0].children.append(lie)
    answer = site.incoming.begin(request, site.state)
    if is_sent:
        with pytest.raises(DecodeError):
            site.part(answer.session_id, model.object_id, model.deflate())
    push_as_lead(site, RecordDict({"global": model}))
    assert send(site, *site.answer("no"))


def test_a_tree_that_contradicts_itself_is_refused(site):
    _, request = site.answer("yes")
    tree = request.message_object_trees[0]
    tree.children.append(tree.children[0])
    with pytest.raises(DecodeError):
        site.incoming.begin(request, site.state)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff 0\x00", b"RecordDict  9\x00", b"RecordDict  2\x00{}"])
def test_another_object_than_the_announced_one_is_refused(site, content):
    objects, _, answer = begun(site, "yes")
    for name in objects:
        with pytest.raises(DecodeError):
            site.part(answer.session_id, name, content)
    assert site.shown() == []


def test_a_site_that_deletes_what_it_has_sent_has_not_answered(site):
    objects, request, answer = begun(site, "yes")
    *others, last = answer.objects_to_push
    for name in others:
        site.part(answer.session_id, name, objects[name])
        site.state.object_store.delete(name)  # as when it confirms that it has received it
    told, done = site.part(answer.session_id, last, objects[last])
    assert (told.stored, done, site.shown()) == (False, None, [])
    assert send(site, objects, request)


def test_a_reply_of_nothing_but_names_is_refused(site, monkeypatch):
    monkeypatch.setattr("fedhealth.flower.server.reply_assembly._MAX_HELD_BYTES", 100)
    objects, _, answer = begun(site, "yes")
    leaf, first, *_ = answer.objects_to_push
    assert site.part(answer.session_id, leaf, objects[leaf])[0].stored
    with pytest.raises(DecodeError):
        site.part(answer.session_id, first, objects[first])
