import numpy as np
import pytest

from fedhealth.types import State
from strategies.server_optimizers.averaging import Averaging


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_averaging_adds_the_mean_update(rate):
    arrays: State = {"w": np.array([[1.0, 2.0]], np.float32), "local": np.ones(3)}
    stepped = Averaging(rate).step(arrays, {"w": np.array([[2.0, -4.0]], np.float32)})
    assert stepped["w"].tolist() == [[1 + 2 * rate, 2 - 4 * rate]]
    assert stepped["local"] is arrays["local"]
    assert stepped["w"].dtype == np.float32
    assert arrays["w"].tolist() == [[1.0, 2.0]]
