"""A frozen layer with an adapter, its arrays named as peft names them: a tower with LoRA that is built in no time."""

import torch
from torch import nn


class AdaptedEncoder(nn.Module):
    """Encoded variables [B, inputs] -> features [B, width]: x W + x A B, W frozen, B zero at the start."""

    def __init__(self, inputs, width=8, rank=2):
        super().__init__()
        self.width = width
        self.base_layer = nn.Linear(inputs, width).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, width, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, values):
        return torch.relu(self.base_layer(values) + self.lora_B["default"](self.lora_A["default"](values)))
