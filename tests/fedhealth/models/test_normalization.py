"""Batch statistics go, pretrained weights stay."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from fedhealth.errors import PrivacyError
from fedhealth.models.normalization import FrozenBatchNorm, replace_batch_norm


def test_frozen_norm_equals_eval_mode_and_stays_frozen():
    torch.manual_seed(0)
    model = resnet18(num_classes=2).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    x, names = torch.randn(2, 3, 32, 32), list(model.state_dict())
    expected = model(x)
    frozen = replace_batch_norm(model, norm="freeze").train()
    assert torch.allclose(frozen(x), expected, rtol=1e-4, atol=1e-4)
    assert list(frozen.state_dict()) == names
    assert not any("bn" in name for name, p in frozen.named_parameters())


def test_group_replaces_every_batch_norm_and_keeps_freezing_and_mode():
    model = nn.Sequential(nn.Conv2d(3, 30, 1), nn.Sequential(nn.BatchNorm2d(30).requires_grad_(False))).eval()
    fixed = replace_batch_norm(model)[1][0]
    assert isinstance(fixed, nn.GroupNorm)
    assert (fixed.num_groups, fixed.training, fixed.weight.requires_grad) == (2, False, False)


def test_a_model_that_is_a_batch_norm_itself():
    assert isinstance(replace_batch_norm(nn.BatchNorm1d(4)), nn.GroupNorm)
    assert isinstance(replace_batch_norm(nn.BatchNorm1d(4, affine=False), norm="freeze"), FrozenBatchNorm)


def test_what_cannot_be_prepared_is_refused():
    with pytest.raises(PrivacyError, match="has no statistics"):
        replace_batch_norm(nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)), norm="freeze")
    with pytest.raises(PrivacyError, match="unknown norm"):
        replace_batch_norm(nn.Linear(2, 2), norm="layer")
