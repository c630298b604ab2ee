import os
import stat
import subprocess
import sys
from contextlib import nullcontext

import pytest

from fedhealth.errors import SecureAggregationError
from fedhealth.secagg.client import journal as memory
from fedhealth.secagg.client.journal import Journal, Secrets
from fedhealth.secagg.protocol.store import FileStore, MemoryStore
from fedhealth.utils.atomic_io import unsynced_files


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "kept" / "here")


def test_values_are_replaced_and_removed(store):
    assert store.get("a") is None
    store.put("a", b"one")
    store.put("a", memoryview(b"two"))
    assert store.get("a") == b"two"
    store.delete("a")
    store.delete("a")
    assert store.get("a") is None
    with store.lock():
        store.put("b", b"")


def test_a_value_is_rewritten_where_it_lies(store):
    for value in (b"one", b"another", b"x"):
        store.rewrite("a", value, memoryview(b"!"))
        assert store.get("a") == value + b"!"
    store.put("a", b"two")
    assert store.get("a") == b"two"
    store.delete("a")
    assert store.get("a") is None


def test_files_are_private_and_whole(tmp_path):
    folder = tmp_path / "secrets"
    store = FileStore(folder)
    (folder / ".a.draft").write_bytes(b"left by a crash")
    (folder / ".a.draft").chmod(0o644)
    store.put("a", b"secret")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_a_failed_write_leaves_the_old_value(tmp_path, monkeypatch):
    store = FileStore(tmp_path)
    store.put("a", b"old")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.put("a", b"new")
    assert store.get("a") == b"old"


def test_the_lock_keeps_another_process_out(tmp_path):
    store = FileStore(tmp_path)
    code = (
        "import fcntl, os, sys\n"
        "handle = os.open(sys.argv[1], os.O_RDWR)\n"
        "try: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(3)\n"
    )
    with store.lock():
        held = subprocess.run([sys.executable, "-c", code, str(tmp_path / ".lock")], check=False)
    free = subprocess.run([sys.executable, "-c", code, str(tmp_path / ".lock")], check=False)
    assert (held.returncode, free.returncode) == (3, 0)


def test_journal_and_secrets_survive_the_store(store):
    journal = Journal(
        epoch=3,
        peers=(("a", 1, b"\x01"), ("b", 2, b"\x02")),
        exchange=4,
        pin=b"pin",
        attempt=2,
        descriptor=b"\x00\xff",
        vector=b"name",
        model=b"model",
        abandoned=b"ctx",
        signed_survivors=("a", "b"),
        unmasked_survivors=("a",),
        unmask_reply=b"unmask reply",
        models=((b"m", 2),),
    )
    secrets = Secrets(b"mine", b"members", 5, (("a", b"k" * 32),), b"pending", b"private")
    memory.save_journal(store, journal)
    memory.save_secrets(store, secrets)
    assert memory.load_journal(store) == journal
    assert memory.load_secrets(store) == secrets


def test_a_damaged_journal_is_an_error_not_a_fresh_start(store):
    store.put(memory.JOURNAL, b'{"epoch": 3')
    with pytest.raises(SecureAggregationError, match="journal of this site is damaged"):
        memory.load_journal(store)


def test_an_absent_journal_is_empty(store):
    assert memory.load_journal(store) == Journal()
    assert memory.load_secrets(store) == Secrets()


@pytest.mark.parametrize("durable", [True, False])
def test_what_need_not_survive_a_power_cut_is_not_synced(tmp_path, monkeypatch, durable):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store = FileStore(tmp_path)
    with nullcontext() if durable else unsynced_files():
        store.put("a", b"one")
    assert bool(synced) == durable
    assert FileStore(tmp_path).get("a") == b"one"
    synced.clear()
    with nullcontext() if durable else unsynced_files():
        store.rewrite("a", b"two")
    assert bool(synced) == durable
    synced.clear()
    with nullcontext() if durable else unsynced_files():
        store.delete("a")
    assert bool(synced) == durable
