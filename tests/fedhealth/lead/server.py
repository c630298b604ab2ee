"""Flower's own database with one node, one running run and one question, as a site and a server application see it."""

from types import SimpleNamespace

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.superlink.config_loader import get_federation_manager, get_objectstore_linkstate_factories

from fedhealth.flower.client.message_codec import encode_message
from fedhealth.flower.compat import set_message_id, set_task_identity
from fedhealth.flower.server.reply_assembly import ReplyAssembler


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
        set_task_identity(self.run, SUPERLINK_NODE_ID)
        self.question = Message(RecordDict(), self.node, "train")
        set_message_id(self.question, encode_message(self.question).decode().metadata.message_id)
        parcel = encode_message(self.question)
        tree, session = ObjectTree.FromString(parcel.tree), self.state.start_session(self.run)
        for name in self.state.store_message_and_object_tree(self.question, tree, session)[1]:
            self.state.store_object(self.run, session, name, parcel.objects[name])
        self.incoming = ReplyAssembler()

    @property
    def app(self):
        """What the listeners need of Flower's application."""
        return SimpleNamespace(state=SimpleNamespace(linkstate_factory=SimpleNamespace(state=lambda: self.state)))

    def answer(self, word):
        """Return an answer's objects by name, and the request that begins it."""
        set_task_identity(self.run, self.node)
        parcel = encode_message(Message(RecordDict({"said": ConfigRecord({"word": word})}), reply_to=self.question))
        request = PushMessagesRequest(
            node=Node(node_id=self.node),
            messages_list=[MessageProto.FromString(parcel.header)],
            message_object_trees=[ObjectTree.FromString(parcel.tree)],
        )
        return parcel.objects, request

    def part(self, session, name, content):
        about = {"node": Node(node_id=self.node), "run_id": self.run, "session_id": session}
        return self.incoming.add_object(PushObjectRequest(**about, object_id=name, object_content=content), self.state)

    def shown(self):
        """What the server application sees."""
        return self.state.get_message_res(message_ids={self.question.metadata.message_id}, run_id=self.run)
