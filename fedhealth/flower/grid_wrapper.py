"""Grids around a grid: they change messages on their way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedhealth.flower.record_bundle import bundle_records, unbundle_records


class GridWrapper(Grid):
    """A grid that passes everything on; a subclass overrides how messages are pushed or pulled.

    Args:
        grid: that sends the messages.

    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages; return their ids."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield the replies that have arrived."""
        return self.grid.pull_messages(message_ids)

    def set_run(self, run: Any) -> None:
        """Set the run."""
        self.grid.set_run(run)

    @property
    def run(self) -> Any:
        """Run information."""
        return self.grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the connected nodes."""
        return self.grid.get_node_ids()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, and pull at once."""
        return list(self.pull_messages(self.push_messages(messages)))


class BundlingGrid(GridWrapper):
    """A grid that sends and receives the small records of a message as one object, see `record_bundle`."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages in bundles; the given ones are not changed."""
        return self.grid.push_messages([_bundle_message(message) for message in messages])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield the replies with their records."""
        for message in self.grid.pull_messages(message_ids):
            if message.has_content():
                message.content = unbundle_records(message.content)
            yield message
            del message  # before the next one is computed: it is as large as the model


def _bundle_message(message: Message) -> Message:
    metadata = message.metadata
    return Message(
        bundle_records(message.content),
        metadata.dst_node_id,
        metadata.message_type,
        ttl=metadata.ttl,
        group_id=metadata.group_id,
    )
