"""An answer counts when all of it is there: on Flower's own database, as a site and a server application see it."""

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.error import FlowerError
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.config_loader import get_federation_manager, get_objectstore_linkstate_factories
from google.protobuf.message import DecodeError

from fedhealth.lead.incoming import Incoming
from fedhealth.site.parcel import parcel_of

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # of Flower's migrations


class Site:
    """One node, and a question to it, at a server."""

    def __init__(self, database):
        manager = get_federation_manager(is_simulation=False)
        self.state = get_objectstore_linkstate_factories(str(database), manager)[1].state()
        self.node = self.state.create_node(NOOP_FLWR_AID, "name", b"key", 30.0)
        self.state.activate_node(self.node, 30.0)
        self.run = self.state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        task = self.state.get_run_info(run_ids=[self.run])[0].primary_task_id
        assert self.state.claim_task(task)
        assert self.state.activate_task(task)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self.run, SUPERLINK_NODE_ID, 1
        self.question = Message(RecordDict(), self.node, "train")
        self.question.metadata.__dict__["_message_id"] = parcel_of(self.question).message().metadata.message_id
        self.state.store_message_ins(self.question)
        self.incoming = Incoming()

    def answer(self, word):
        """Return an answer's objects by name, and the request that begins it."""
        TaskIdentity.node_id = self.node
        parcel = parcel_of(Message(RecordDict({"said": ConfigRecord({"word": word})}), reply_to=self.question))
        request = PushMessagesRequest(
            node=Node(node_id=self.node),
            messages_list=[MessageProto.FromString(parcel.head)],
            message_object_trees=[ObjectTree.FromString(parcel.tree)],
        )
        return parcel.objects, request

    def part(self, session, name, content):
        about = {"node": Node(node_id=self.node), "run_id": self.run, "session_id": session}
        return self.incoming.part(PushObjectRequest(**about, object_id=name, object_content=content), self.state)

    def shown(self):
        """What the server application sees."""
        return self.state.get_message_res(message_ids={self.question.metadata.message_id}, run_id=self.run)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "superlink.db")


def begun(site, word):
    objects, request = site.answer(word)
    answer, whole = site.incoming.begin(request, site.state)
    assert set(answer.objects_to_push) <= set(objects)
    return objects, request, answer, whole


def test_the_server_application_sees_an_answer_when_its_last_object_is_there(site):
    objects, request, answer, whole = begun(site, "yes")
    *others, last = answer.objects_to_push
    for name in others:
        assert site.part(answer.session_id, name, objects[name])[0].stored
    assert (whole, site.shown()) == (False, [])
    told, done = site.part(answer.session_id, last, objects[last])
    assert (told.stored, done) == (True, request)
    assert len(site.shown()) == 1


def test_another_answer_takes_the_place_of_one_that_was_cut_off(site):
    begun(site, "cut off")
    objects, request, answer, _ = begun(site, "whole")
    ends = [site.part(answer.session_id, name, objects[name])[1] for name in answer.objects_to_push]
    assert ends[-1] == request
    (shown,) = site.shown()
    assert shown.metadata.message_id == request.messages_list[0].metadata.message_id


def test_a_server_that_has_forgotten_the_beginning_lets_it_begin_again(site):
    objects, request, answer, _ = begun(site, "yes")
    first, *others = answer.objects_to_push
    site.part(answer.session_id, first, objects[first])
    site.incoming = Incoming()
    for name in others:
        assert not site.part(answer.session_id, name, objects[name])[0].stored
    again, whole = site.incoming.begin(request, site.state)
    assert whole  # nothing of it has to be sent twice
    assert list(again.objects_to_push) == []
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
