"""The device that trains."""

import pytest

from fedhealth.errors import ConfigError
from fedhealth.training.devices import select_device


def test_a_device_that_is_not_there_is_refused():
    assert select_device("cpu").type == "cpu"
    assert select_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ConfigError, match=f"training.device={name}"):
            select_device(name)
