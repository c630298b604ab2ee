"""What the application of a hospital does around every message."""

import os

import pytest
from flwr.app import Context, Message, RecordDict

from clients import app
from fedhealth.flower.compat import set_task_identity
from fedhealth.protocol.messages import HANDSHAKE
from fedhealth.utils.atomic_io import write_atomic


@pytest.mark.parametrize(("node", "syncs"), [({"site": "north"}, 0), ({"home": "home"}, 2)])
def test_a_hospital_syncs_what_it_writes_and_a_virtual_site_does_not(node, syncs, tmp_path, monkeypatch):
    set_task_identity(1, 0)
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)

    def write(*_):
        write_atomic(tmp_path / "file", b"content")
        return RecordDict()

    monkeypatch.setattr(app, "_handle_as_virtual_site", write)
    monkeypatch.setattr(app, "_handle_as_hospital", write)
    node = {key: str(tmp_path) if key == "home" else value for key, value in node.items()}
    message = Message(RecordDict(), dst_node_id=1, message_type=HANDSHAKE)
    reply = app.handle_message(message, Context(1, 1, node, RecordDict(), {"job": "{}"}), job=object())
    assert reply.has_content()
    assert len(synced) == syncs
