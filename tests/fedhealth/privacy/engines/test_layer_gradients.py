"""Per-patient gradients of convolutions, above all of grouped and depthwise ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedhealth.privacy.engines import layer_gradients
from fedhealth.privacy.engines.base import PatientIndex
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.layer_gradients import ConvOuterProduct
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.utils.activation_checkpointing import checkpoint_blocks
from fedhealth.utils.tensor_memory import PeakCounter
from tests.fedhealth.privacy.toys import flat_loss, relative_error, sums

CLIPPING = Clipping(0.5)
SEVERAL = [7, 2, 7, 2, 2, 5]
DEPTHWISE = {
    "3 x 3": {"kernel_size": 3, "padding": 1},
    "stride leaves a rest": {"kernel_size": 3, "stride": 2, "padding": 1},
    "7 x 7, same": {"kernel_size": 7, "padding": "same"},
    "valid": {"kernel_size": (3, 2), "padding": "valid"},
    "dilated, same": {"kernel_size": 3, "dilation": (2, 3), "padding": "same"},
    "dilated, strided": {"kernel_size": (2, 3), "dilation": 2, "stride": (1, 3), "padding": (2, 0)},
    "1 x 1": {"kernel_size": 1},
    "kernel as large as the image": {"kernel_size": (9, 8)},
}


def make_model(conv):
    """Return a network in which the layer comes between two others, in a block of its own."""
    block = nn.Sequential(conv, nn.GroupNorm(1, conv.out_channels), nn.ReLU(inplace=True))
    pool = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * conv.out_channels, 3)
    return nn.Sequential(nn.Conv2d(2, conv.in_channels, 1), block, *pool)


def compute_errors(model, batch, patients):
    """Return the engine's errors relative to the oracle, in one pass and with the block checkpointed."""
    truth = sums(OracleEngine, model, flat_loss, batch, patients, CLIPPING)
    one = sums(BookKeepingEngine, model, flat_loss, batch, patients, CLIPPING)
    with checkpoint_blocks([model[1]]):
        two = sums(BookKeepingEngine, model, flat_loss, batch, patients, CLIPPING)
    assert truth.keys() == one.keys() == two.keys()
    return relative_error(one, truth), relative_error(two, truth)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_convolution_equals_oracle(name, multiplier, memory_format):
    torch.manual_seed(0)
    model = make_model(nn.Conv2d(20, 20 * multiplier, groups=20, **DEPTHWISE[name]))
    model = model.to(memory_format=memory_format)
    batch = torch.randn(6, 2, 9, 8).contiguous(memory_format=memory_format), torch.randint(0, 3, (6,))
    for patients in (list(range(6)), SEVERAL):
        assert max(compute_errors(model, batch, patients)) < 1e-5


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_grouped_convolution_equals_oracle(data):
    """In double precision; in pieces of one row, of some and of all."""
    torch.manual_seed(data.draw(st.integers(0, 9)))
    kernel = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    stride, padding = data.draw(st.sampled_from([1, 2, (3, 1)])), data.draw(st.tuples(*[st.integers(0, 2)] * 2))
    is_odd = all(each % 2 for each in kernel)
    if is_odd and stride == 1 and data.draw(st.booleans()):
        padding = "same"
    conv = nn.Conv2d(
        8,
        8 * data.draw(st.integers(1, 3)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=data.draw(st.sampled_from([1, 2, (1, 3)])),
        groups=data.draw(st.sampled_from([1, 2, 4, 8])),
        bias=data.draw(st.booleans()),
    )
    model = make_model(conv).double()
    batch = torch.randn(5, 2, 9, 8).double(), torch.randint(0, 3, (5,))
    if data.draw(st.booleans()):
        model, batch = (
            model.to(memory_format=torch.channels_last),
            (batch[0].contiguous(memory_format=torch.channels_last), batch[1]),
        )
    patients = data.draw(st.lists(st.integers(0, 4), min_size=5, max_size=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_gradients, "CPU_VALUES", data.draw(st.sampled_from([1, 3000, 1 << 18])))
        assert max(compute_errors(model, batch, patients)) < 1e-5  # a ghost norm adds a bound on rounding in float32


def test_a_depthwise_layer_used_twice_equals_oracle():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.Sequential(conv, nn.GELU(), conv), nn.Flatten(), nn.Linear(8 * 30, 3))
    batch = torch.randn(6, 2, 6, 5), torch.randint(0, 3, (6,))
    assert max(compute_errors(model, batch, SEVERAL)) < 1e-5


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_row_that_is_not_finite_changes_no_other_rows_gradient(value):
    """To the last bit; the rows share vectors of the processor, as 20 channels are no multiple of a vector's length."""
    torch.manual_seed(0)
    conv, patients = nn.Conv2d(20, 20, 3, padding=1, groups=20), PatientIndex(range(6), torch.device("cpu"))
    image, gradient = torch.randn(6, 20, 9, 8), torch.randn(6, 20, 9, 8)
    with torch.no_grad():
        clean = ConvOuterProduct(conv, image, gradient).instantiate(patients)
        image[3], gradient[4, 0, 0, 0] = value, value
        found = ConvOuterProduct(conv, image, gradient).instantiate(patients)
    assert torch.equal(found[[0, 1, 2, 5]], clean[[0, 1, 2, 5]])
    assert not found[[3, 4]].isfinite().all(1).any()


def test_rows_gradients_are_not_held_all_at_a_time():
    """Two patients with 64 rows each, of a layer whose gradient is much larger than its input."""
    conv, patients = nn.Conv2d(256, 256, 3, padding=1, groups=2), PatientIndex([0, 1] * 64, torch.device("cpu"))
    image, gradient = torch.randn(128, 256, 2, 2), torch.randn(128, 256, 2, 2)
    with torch.no_grad(), PeakCounter() as count:
        ConvOuterProduct(conv, image, gradient).instantiate(patients)
    assert count.peak < 8 * 4 * conv.weight.numel()  # of 128
