"""Pushing questions: what one site takes off the server too early is pushed again for all."""

import weakref

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from fedhealth.flower.compat import set_message_id, set_task_identity
from fedhealth.flower.grid_wrapper import BundlingGrid
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


class ReplyingGrid:
    """A server that has the reply of each site; it counts the replies that somebody holds when the next one comes."""

    def __init__(self):
        self.requests, self.held, self.most_held = {}, [], 0

    def push_messages(self, messages):
        for message in messages:
            set_message_id(message, str(message.metadata.dst_node_id))
            self.requests[message.metadata.message_id] = message
        return list(self.requests)

    def pull_messages(self, names):
        for name in names:
            self.most_held = max(self.most_held, sum(each() is not None for each in self.held))
            reply = Message(RecordDict({"x": ConfigRecord({"y": 1})}), reply_to=self.requests[name])
            self.held.append(weakref.ref(reply))
            yield reply
            del reply


@pytest.mark.parametrize("wrap", [lambda grid: grid, BundlingGrid])
def test_a_reply_is_gone_before_the_next_one_comes(wrap):
    set_task_identity(1, 99)
    contents, grid = {node: RecordDict({"x": ConfigRecord({"y": 1})}) for node in (1, 2, 3)}, ReplyingGrid()
    nodes = []
    for reply in exchange_messages(wrap(grid), "query.x", contents, "0", dict.fromkeys(contents, 9.0)):
        nodes.append(reply.node)
        del reply
    assert nodes == [1, 2, 3]
    assert grid.most_held == 0


class SlowGrid(ReplyingGrid):
    """A server that hands over one reply at a time, in longer than a site has; `last` is never answered."""

    def __init__(self, clock, last):
        super().__init__()
        self.clock, self.last = clock, last

    def pull_messages(self, names):
        self.clock.seconds += 10
        for name in names[:1]:
            if name != self.last:
                yield Message(RecordDict({"x": ConfigRecord({"y": 1})}), reply_to=self.requests[name])


class Clock:
    """Seconds that pass when somebody says so."""

    seconds = 0.0

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


@pytest.mark.parametrize(("last", "replied"), [(None, [1, 2, 3]), ("3", [1, 2]), ("1", [])])
def test_a_reply_that_waits_behind_others_is_not_late(monkeypatch, last, replied):
    set_task_identity(1, 99)
    clock = Clock()
    monkeypatch.setattr("strategies.messaging.time", clock)
    contents, grid = {node: RecordDict({"x": ConfigRecord({"y": 1})}) for node in (1, 2, 3)}, SlowGrid(clock, last)
    found = exchange_messages(grid, "query.x", contents, "0", dict.fromkeys(contents, 9.0))
    assert [reply.node for reply in found] == replied
