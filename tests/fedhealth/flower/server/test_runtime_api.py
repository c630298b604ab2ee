"""What a server application is handed stays with the lead until it has arrived, whenever the server ends."""

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_object_tree

from fedhealth.flower.compat import set_task_identity
from fedhealth.flower.record_bundle import bundle_records
from fedhealth.flower.server.long_polling import LongPolling
from fedhealth.flower.server.reply_redelivery import ReplyRedelivery
from fedhealth.flower.server.runtime_api import RuntimeApi, cut_after_large
from fedhealth.protocol.array_codec import pack_arrays
from tests.fedhealth.lead.server import Site


@pytest.fixture(name="site")
def site_(tmp_path, monkeypatch):
    site = Site(tmp_path / "superlink.db")
    task = SimpleNamespace(run_id=site.run)
    monkeypatch.setattr("fedhealth.flower.server.runtime_api.authenticate_task", lambda request, token, state: task)
    objects, request = site.answer("yes")
    begun = site.incoming.begin(request, site.state)
    for name in begun.objects_to_push:
        site.part(begun.session_id, name, objects[name])
    return site


def asks(site, kept, action, request):
    return RuntimeApi(site.app, LongPolling(), kept)._handle(action, request, SimpleNamespace(headers={}))[0]


def pulled(site, kept):
    """The ids of the answers to the one question."""
    request = PullAppMessagesRequest(message_ids=[site.question.metadata.message_id])
    answer = asks(site, kept, "pull-messages", request)
    assert len(answer.messages_list) == len(answer.message_object_trees)
    return [message.metadata.message_id for message in answer.messages_list]


def confirm(site, kept, message):
    about = {"node": Node(node_id=1), "run_id": site.run}
    asks(site, kept, "confirm-message-received", ConfirmMessageReceivedRequest(**about, message_object_id=message))


class EndsBefore(ReplyRedelivery):
    """A server that ends before it has written down what it hands over."""

    def record(self, answers):
        raise OSError


class EndsAfter(ReplyRedelivery):
    """A server that ends when it has written that down, and nothing else."""

    def record(self, answers):
        super().record(answers)
        raise OSError


@pytest.mark.parametrize("ends", [EndsBefore, EndsAfter])
def test_a_server_that_ends_while_it_hands_an_answer_over_hands_it_over_again(tmp_path, site, ends):
    with pytest.raises(OSError):
        pulled(site, ends(tmp_path))
    assert len(pulled(site, ReplyRedelivery(tmp_path))) == 1


def test_an_answer_is_handed_over_until_it_is_confirmed(tmp_path, site):
    (answer,) = pulled(site, ReplyRedelivery(tmp_path))
    kept = ReplyRedelivery(tmp_path)
    assert pulled(site, kept) == [answer]
    confirm(site, kept, answer)
    assert kept.find_unconfirmed([site.question.metadata.message_id]).messages_list == []
    assert list(tmp_path.glob("*.answer")) == []


@pytest.mark.parametrize("harm", ["cut off", "too old", "empty"])
def test_what_nobody_can_wait_for_any_more_is_forgotten(tmp_path, site, monkeypatch, harm):
    pulled(site, ReplyRedelivery(tmp_path))
    (path,) = tmp_path.glob("*.answer")
    if harm == "too old":
        monkeypatch.setattr("time.time", lambda: 1e11)
    else:
        path.write_bytes(b"" if harm == "empty" else path.read_bytes()[:-5])
    assert ReplyRedelivery(tmp_path).find_unconfirmed([path.stem]).messages_list == []
    assert not path.exists()


def build_update(values):
    content = RecordDict({"update": pack_arrays({"w": np.zeros(values, np.float32)}), "x": ConfigRecord({"y": 1})})
    return Message(bundle_records(content), 1, "train.fit")


@pytest.mark.parametrize(
    ("sizes", "sent"), [("", 0), ("s", 1), ("sss", 3), ("l", 1), ("ll", 1), ("sls", 2), ("ssl", 3), ("lsl", 1)]
)
def test_a_large_reply_ends_a_response(sizes, sent):
    set_task_identity(1, 99)
    values = {"s": 10, "l": 1_000_000}
    trees = [get_object_tree(build_update(values[each])) for each in sizes]
    whole = PullAppMessagesResponse(messages_list=[MessageProto()] * len(sizes), message_object_trees=trees)
    found = cut_after_large(whole)
    assert len(found.messages_list) == sent
    assert list(found.message_object_trees) == trees[:sent]
