"""One holder at a time; the lock ends with the block, and a busy one is reported as the caller wants."""

import pytest

from fedhealth.errors import ConfigError
from fedhealth.utils.file_lock import is_locked, lock_file


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / "lock"
    assert not is_locked(path)
    with lock_file(path):
        assert is_locked(path)
        with pytest.raises(BlockingIOError), lock_file(path, wait=0):
            pass
        with pytest.raises(ConfigError, match="busy"), lock_file(path, 0.06, ConfigError("busy", "wait")):
            pass
    assert not is_locked(path)
    with lock_file(path, wait=0):
        pass


def test_what_the_holder_wrote_stays(tmp_path):
    path = tmp_path / "lock"
    with lock_file(path) as file:
        file.write("17")
    assert path.read_text() == "17"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_fault_in_the_block_is_passed_on_and_frees_the_lock(tmp_path):
    with pytest.raises(BlockingIOError, match="of the block"), lock_file(tmp_path / "lock", 0, ConfigError("a", "b")):
        raise BlockingIOError("of the block")
    assert not is_locked(tmp_path / "lock")
