"""Checkpointed blocks: which they are, the same gradients and statistics, less memory, and nothing left behind."""

import copy
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torchvision import models
from transformers import BertConfig, BertModel, ConvNextConfig, ConvNextModel, ViTConfig, ViTModel

from fedhealth.utils.activation_checkpointing import checkpoint_blocks, find_blocks, has_checkpointed_blocks
from fedhealth.utils.tensor_memory import PeakCounter

SIZES = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}


def name_blocks(model):
    names = {module: name for name, module in model.named_modules()}
    return [names[block] for block in find_blocks(model)]


def test_blocks_of_networks():
    residual = [f"layer{stage}.{place}" for stage in range(1, 5) for place in range(2)]
    assert name_blocks(models.resnet18()) == residual
    assert name_blocks(models.mobilenet_v2()) == [f"features.{place}" for place in range(19)]
    assert name_blocks(models.convnext_tiny())[:4] == ["features.0", "features.1.0", "features.1.1", "features.1.2"]
    assert "features.2.1" in name_blocks(models.efficientnet_b0())
    bert = BertModel(BertConfig(vocab_size=9, num_hidden_layers=2, **SIZES))
    assert name_blocks(bert) == ["encoder.layer.0", "encoder.layer.1"]
    vit = ViTModel(ViTConfig(num_hidden_layers=2, image_size=32, **SIZES))
    assert len(name_blocks(vit)) == 2
    convnext = ConvNextModel(ConvNextConfig(hidden_sizes=[4, 4, 4, 4], depths=[1, 1, 2, 1]))
    assert sum("stages.2.layers" in name for name in name_blocks(convnext)) == 2


def test_a_chain_of_layers_has_no_blocks():
    assert find_blocks(nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU())) == []
    assert find_blocks(nn.Linear(2, 2)) == []


def run_step(model, seed=1):
    """Return the gradients and buffers after one step, and the peak of the memory."""
    torch.manual_seed(seed)
    images = torch.randn(8, 3, 64, 64)
    with PeakCounter() as count:
        model(images).square().sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    return grads, {name: value.clone() for name, value in model.named_buffers()}, count.peak


@pytest.mark.parametrize("is_cumulative", [False, True])
def test_gradients_random_numbers_and_running_statistics_are_those_without(is_cumulative):
    torch.manual_seed(0)
    model = models.mobilenet_v2(dropout=0.0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None if is_cumulative else 0.1
    for block in model.features[1:4]:
        block.append(nn.Dropout(0.3)) if isinstance(block, nn.Sequential) else block.conv.append(nn.Dropout(0.3))
    twin = copy.deepcopy(model)
    grads, buffers, peak = run_step(model)
    with checkpoint_blocks(find_blocks(twin)):
        assert has_checkpointed_blocks(twin)
        found, statistics, less = run_step(twin)
    assert all(torch.equal(found[name], grads[name]) for name in grads)
    assert all(torch.equal(statistics[name], buffers[name]) for name in buffers)
    assert less < 0.6 * peak


class Stateful(nn.Module):
    """A block whose forward pass depends on what an earlier one left behind."""

    count: torch.Tensor

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        first = nn.Linear(5, 8)
        self.first, self.last = spectral_norm(first) if kind == "spectral norm" else first, nn.Linear(8, 5)
        self.register_buffer("count", torch.ones(()))
        self.register_buffer("unused", None)

    def forward(self, x):
        scale = 1.0
        if self.kind == "python":
            scale = random.random()
        elif self.kind == "numpy":
            scale = float(np.random.rand())
        elif self.kind == "changed buffer":
            scale = float(self.count.add_(1))
        elif self.kind == "new buffer":
            self.count = self.count + 1
            scale = float(self.count)
        return self.last(torch.tanh(self.first(x)) * scale)


@pytest.mark.parametrize("kind", ["python", "numpy", "changed buffer", "new buffer", "spectral norm"])
def test_what_a_block_leaves_behind_is_that_of_one_pass(kind):
    torch.manual_seed(0)
    x, models = torch.randn(6, 5), [nn.Sequential(nn.Linear(5, 5), Stateful(kind), Stateful(kind))]
    models.append(copy.deepcopy(models[0]))
    states = []
    for model, blocks in zip(models, ([], models[1][1:]), strict=True):
        random.seed(1)
        np.random.seed(1)
        with checkpoint_blocks(blocks):
            for _ in range(2):
                model(x).square().sum().backward(retain_graph=True)
                model(x).square().sum().backward()
        states.append((random.getstate(), np.random.get_state()[1].tolist()))
    assert states[0] == states[1]
    plain, checkpointed = models
    for p, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(p.grad, other.grad)
    for buffer, other in zip(plain.buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(buffer, other)


def test_a_buffer_made_in_inference_is_left_alone():
    block = Stateful("none")
    with torch.inference_mode():
        block.register_buffer("mask", torch.ones(3))
    with checkpoint_blocks([block]):
        block(torch.ones(1, 5)).sum().backward()
    assert block.mask.is_inference()


def test_nothing_is_left_behind_also_after_an_error():
    model = models.resnet18()
    names = list(model.state_dict())
    with checkpoint_blocks(find_blocks(model)):
        assert list(model.state_dict()) == names
        with checkpoint_blocks(find_blocks(model)):  # they are checkpointed already
            pass
        assert has_checkpointed_blocks(model)
    with suppress(ZeroDivisionError), checkpoint_blocks(find_blocks(model)):
        raise ZeroDivisionError
    assert not has_checkpointed_blocks(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_evaluation_computes_blocks_once():
    model, calls = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Tanh())), []
    model[0][0].register_forward_hook(lambda *given: calls.append(1))
    with checkpoint_blocks([model[0]]), torch.inference_mode():
        model(torch.ones(1, 2))
    assert len(calls) == 1
