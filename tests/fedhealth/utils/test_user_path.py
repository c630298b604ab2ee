import os

import pytest

from fedhealth.errors import ConfigError
from fedhealth.utils.user_path import expand_user


def test_a_home_folder_is_filled_in(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_user("~/cache") == tmp_path / "cache"
    assert expand_user(tmp_path / "a~b") == tmp_path / "a~b"


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # as with `docker run -u`
    with pytest.raises(ConfigError, match="this user has no home folder") as caught:
        expand_user("~/cache")
    assert "Set HOME" in caught.value.advice
