"""A Flower grid inside one process: pulling a message runs the ClientApp, so nothing is copied or sent."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedhealth.flower.compat import set_message_id, set_task_identity


class InProcessGrid(Grid):
    """One node per site, all served by `client_app`.

    Args:
        client_app: the hospital's application.
        sites: their names; node ids count from 1 in this order.
        run_config: Flower's run configuration, the same for all.

    """

    def __init__(self, client_app: ClientApp, sites: Iterable[str], run_config: dict[str, Any]) -> None:
        self._app = client_app
        run_id = secrets.randbits(62)
        self._run = Run.create_empty(run_id)
        self._contexts = {
            node: Context(run_id, node, {"site": site}, RecordDict(), run_config)
            for node, site in enumerate(sites, start=1)
        }
        self._pushed: dict[str, Message] = {}
        set_task_identity(run_id, 0)

    def set_run(self, run: Run) -> None:
        """Do nothing: the grid creates its own run."""

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message (Flower's interface; `Message(...)` does the same)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return every node."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Store the messages until they are pulled or others are pushed; return their ids."""
        self._pushed.clear()  # replies to earlier messages are no longer needed: enough sites have replied
        ids = []
        for message in messages:
            set_message_id(message, str(uuid4()))  # as a SuperLink does on arrival
            self._pushed[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Compute and yield the replies one by one, so that only one reply is in memory at a time."""
        for message_id in message_ids:
            if message := self._pushed.pop(message_id, None):
                yield self._app(message, self._contexts[message.metadata.dst_node_id])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push and pull at once."""
        return list(self.pull_messages(self.push_messages(messages)))
