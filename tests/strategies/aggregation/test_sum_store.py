"""Opened sums and the history of a run on the lead's disk."""

import os

import numpy as np
import pytest

from fedhealth.errors import FederationError
from fedhealth.protocol.messages import TRAIN
from fedhealth.secagg.protocol.history import HistoryLink
from fedhealth.secagg.protocol.store import MemoryStore
from strategies.aggregation.base import Aggregate
from strategies.aggregation.run_history import RunHistory
from strategies.aggregation.sum_store import SumStore
from tests.fedhealth.secagg.federation import Federation

INCOMING = bytes(32)


def summed(value=1.0):
    update = {"towers.image.weight": np.full((2, 3), value, np.float32)}
    return Aggregate(update, {"train.examples": np.array([7], np.int64)}, ("a", "b", "c"), b"link")


def test_a_sum_is_found_by_the_request_that_it_answered(tmp_path):
    store = SumStore(tmp_path)
    store.save(TRAIN, 1, INCOMING, summed())
    found = SumStore(tmp_path).load(TRAIN, 1, INCOMING)
    assert (found.sites, found.link) == (("a", "b", "c"), b"link")
    assert found.update["towers.image.weight"].tolist() == summed().update["towers.image.weight"].tolist()
    assert found.statistics["train.examples"].tolist() == [7]
    for request in ((TRAIN, 2, INCOMING), ("evaluate.score", 1, INCOMING), (TRAIN, 1, os.urandom(32))):
        assert store.load(*request) is None


def test_a_damaged_sum_counts_as_none(tmp_path):
    store = SumStore(tmp_path)
    store.save(TRAIN, 1, INCOMING, summed())
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for damaged in (content[:20], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        assert store.load(TRAIN, 1, INCOMING) is None


@pytest.mark.parametrize(
    ("written", "damaged"),
    [(b'\\"b\\"', b'\\"x\\"'), (b'[\\"a', b'<\\"a'), (b"6c696e6b", b"6c696e6c"), (b'"link"', b'"lank"')],
)
def test_a_sum_with_damaged_texts_counts_as_none(tmp_path, written, damaged):
    store = SumStore(tmp_path)
    store.save(TRAIN, 1, INCOMING, summed())
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    assert content.count(written) == 1
    path.write_bytes(content.replace(written, damaged))
    assert store.load(TRAIN, 1, INCOMING) is None


def test_only_the_newest_sums_are_kept(tmp_path):
    store = SumStore(tmp_path)
    for number in range(1, 6):
        store.save(TRAIN, number, INCOMING, summed(number))
    found = [number for number in range(1, 6) if store.load(TRAIN, number, INCOMING)]
    assert found == [3, 4, 5]


def test_the_history_goes_back_to_a_checkpoint():
    federation, store = Federation(3), MemoryStore()
    history = RunHistory(store, federation.lead, INCOMING)
    heads = [history.head]
    for exchange in (1, 2, 3):
        plan = federation.plan(exchange, history=history.head)
        federation.round(plan, federation.ids, federation.ids)
        history.append(federation.server.build_link(os.urandom(32)), os.urandom(32))
        heads.append(history.head)
    assert len(set(heads)) == 4
    assert len(history.list_links()) == 3
    assert history.list_links(2) == history.list_links()[1:]
    again = RunHistory(store, federation.lead, INCOMING)
    again.go_back(heads[2])
    assert RunHistory(store, federation.lead, INCOMING).head == heads[2]
    with pytest.raises(FederationError, match="does not lead to the checkpoint"):
        again.go_back(heads[3])
    again.go_back(b"")
    assert again.head == heads[0]


def test_a_link_that_is_no_longer_on_the_disk_is_named():
    federation, store = Federation(3), MemoryStore()
    history = RunHistory(store, federation.lead, INCOMING)
    for exchange in (1, 2):
        plan = federation.plan(exchange, history=history.head)
        federation.round(plan, federation.ids, federation.ids)
        history.append(federation.server.build_link(os.urandom(32)), os.urandom(32))
    assert [HistoryLink.from_bytes(data).head for data in history.list_links()][-1] == history.head
    store.delete("link-00001")
    with pytest.raises(FederationError, match="Link 2 of the history"):
        history.list_links(1)
