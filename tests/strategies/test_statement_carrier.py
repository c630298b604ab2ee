"""A site's statement is kept from whatever it sends: what is none is passed over, and the reply counts."""

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedhealth.flower.compat import set_task_identity
from fedhealth.protocol.messages import STATEMENT
from strategies.statement_carrier import StatementCarrier


class Replies:
    """A grid to which one reply has come."""

    def __init__(self, content):
        self.content = content

    def pull_messages(self, ids):
        return [Message(self.content, 1, "train.fit")]


@pytest.mark.parametrize(
    "record",
    [
        ArrayRecord([np.zeros(1)]),
        MetricRecord({"statement": 1}),
        ConfigRecord(),
        ConfigRecord({"statement": "text"}),
        ConfigRecord({"statement": b"not signed"}),
    ],
)
def test_a_record_that_is_no_statement_ends_no_run(record):
    set_task_identity(1, 2)
    store = SimpleNamespace(get=lambda name: None, put=lambda name, data: pytest.fail("kept"))
    content = RecordDict({STATEMENT: record})
    carrier = StatementCarrier(Replies(content), store, SimpleNamespace(keys={}))
    (reply,) = carrier.pull_messages(["1"])
    assert reply.content == content
