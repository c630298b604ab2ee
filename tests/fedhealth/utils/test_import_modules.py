"""Importing without collections."""

import gc
import subprocess
import sys

import pytest

from fedhealth.utils.import_modules import import_modules, pause_collection


@pytest.fixture(autouse=True)
def unfreeze():
    yield
    gc.unfreeze()


def test_nothing_is_collected_inside_and_later_collections_leave_it_out():
    collections, before = [], gc.get_freeze_count()
    gc.callbacks.append(lambda phase, _: collections.append(phase))
    try:
        with pause_collection():
            made = [[number] for number in range(10_000)]
    finally:
        gc.callbacks.pop()
    assert collections == []
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_it_is_on_again_after_an_error():
    with pytest.raises(ImportError), pause_collection():
        raise ImportError
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off():
    gc.disable()
    try:
        with pause_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_modules_are_imported_once(tmp_path, monkeypatch):
    (tmp_path / "heavy_module_of_the_test.py").write_text("values = [[number] for number in range(1000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = gc.get_freeze_count()
    import_modules(["heavy_module_of_the_test"])
    after = gc.get_freeze_count()
    made_later = [[number] for number in range(1000)]
    import_modules(["heavy_module_of_the_test", "gc"])
    assert after >= before + 1000
    assert gc.get_freeze_count() <= after  # what dies leaves the count; nothing enters it
    assert len(sys.modules.pop("heavy_module_of_the_test").values) == len(made_later)


def test_what_was_left_out_is_collected_at_the_end_of_the_process():
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count()))\n"
        "from fedhealth.utils.import_modules import pause_collection\n"
        "with pause_collection(): made = [[number] for number in range(1000)]\n"
        "assert gc.get_freeze_count() > 1000"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]
