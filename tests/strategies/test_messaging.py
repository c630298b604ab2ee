"""Pushing questions: what one site takes off the server too early is pushed again for all."""

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from fedhealth.flower.compat import set_task_identity
from strategies.messaging import exchange_messages


class Grid:
    """A server on which the first pushes fail."""

    def __init__(self, failures):
        self.failures, self.pushed = failures, 0

    def push_messages(self, messages):
        self.pushed += 1
        if self.pushed <= self.failures:
            raise ObjectPushError("0", 1, "session")
        return [str(message.metadata.dst_node_id) for message in messages]

    def pull_messages(self, names):
        return []


def ask(grid):
    set_task_identity(1, 99)
    contents = {node: RecordDict({"x": ConfigRecord({"node": str(node)})}) for node in (1, 2)}
    return list(exchange_messages(grid, "query.handshake", contents, "0", dict.fromkeys(contents, 0.01)))


def test_a_failed_push_is_made_again():
    grid = Grid(failures=3)
    assert ask(grid) == []
    assert grid.pushed == 4


def test_a_server_that_takes_nothing_is_a_fault():
    with pytest.raises(ObjectPushError):
        ask(Grid(failures=4))
