"""What patient-level privacy costs: one training step against the same step without privacy.

One thread, process CPU time, private and plain steps in turn; noise and optimizer included. Memory is the highest
resident size of a fresh process during a step, less what it had before the model was built. Opacus runs in its faster
mode for each model (both modes without --quick), with in-place operations taken out and position ids expanded,
without which it fails or is wrong.

Run `python -m benchmarks.dp --quick`; the last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock
from transformers import BertConfig, BertModel

from fedhealth.models.normalization import replace_batch_norm
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.engines.base import get_trainable_parameters
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource

BATCH, SIZE, LENGTH, WIDTH, VOCAB = 32, 64, 64, 256, 8192
TARGETS = {"bk_resnet18": 1.6, "bk_bert": 1.35, "bk_fusion": 1.55, "bk_lora": 1.1, "mem": 2.0, "noise_share": 0.10}
FASTER = {"resnet18": "hooks", "bert": "ghost", "fusion": "ghost", "lora": "hooks"}

Step = Callable[[], object]


class Image(nn.Module):
    """ResNet18 with GroupNorm on 64 px."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.net = replace_batch_norm(resnet18(num_classes=outputs))

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        """Return logits [B, outputs] from the image alone."""
        out: Tensor = self.net(image)
        return out


class Text(nn.Module):
    """Four layers of BERT, 256 wide, length 64."""

    def __init__(self, outputs: int = 2, rank: int = 0) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=LENGTH,
        )
        self.net: Any = BertModel(config, add_pooling_layer=False)
        if rank:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.net = get_peft_model(self.net, LoraConfig(r=rank, target_modules=["query", "value"]))
        self.head = nn.Linear(WIDTH, outputs)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        """Return logits [B, outputs] from the text alone."""
        out: Tensor = self.head(self.net(input_ids=ids).last_hidden_state[:, 0])
        return out


class Fused(nn.Module):
    """Both towers and a head over their concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.head = Image(WIDTH), Text(WIDTH), nn.Linear(2 * WIDTH, 2)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        """Return logits [B, 2]."""
        out: Tensor = self.head(torch.cat([self.image(image, ids), self.text(image, ids)], 1).relu())
        return out


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": Image,
    "bert": Text,
    "fusion": Fused,
    "lora": partial(Text, rank=8),
}


@dataclass(frozen=True)
class Data:
    """One batch."""

    image: Tensor
    ids: Tensor
    label: Tensor


def make_data() -> Data:
    """Return a batch of random rows."""
    return Data(
        torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(1, VOCAB, (BATCH, LENGTH)), torch.randint(0, 2, (BATCH,))
    )


def compute_row_losses(model: nn.Module, data: Data) -> Tensor:
    """Return losses [B]."""
    return F.cross_entropy(model(data.image, data.ids), data.label, reduction="none")


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that all steps wrap."""
    return torch.optim.SGD(get_trainable_parameters(model).values(), lr=0.01, momentum=0.9)


def make_plain_step(model: nn.Module, data: Data) -> Step:
    """Return the step without privacy."""
    optimizer = make_optimizer(model)

    def step() -> None:
        optimizer.zero_grad()
        compute_row_losses(model, data).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def make_bk_step(model: nn.Module, data: Data) -> Step:
    """Return the step with the book-keeping engine, the noise and the optimizer as in training."""
    plan = PrivacyPlan("patient", 0.1, 10**6, 1, Clipping(1.0), 1.0, float(BATCH), 1e-5, 1)
    engine, optimizer = (
        BookKeepingEngine(model, compute_row_losses, plan.clipping),
        NoisyOptimizer(make_optimizer(model), plan),
    )
    optimizer.allow_steps(plan.run_event)

    def step() -> None:
        optimizer.zero_grad()
        engine.accumulate(data, range(BATCH))
        optimizer.step()

    return step


def forward_out_of_place(block: BasicBlock, x: Tensor) -> Tensor:
    """Return what the block computes, without its `out += identity`, on which Opacus's hooks fail."""
    out = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    return F.relu(out + (x if block.downsample is None else block.downsample(x)))


def make_opacus_step(model: nn.Module, data: Data, mode: str) -> Step:
    """Return Opacus's own step: per-sample gradients by `hooks`, or `ghost` clipping."""
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if isinstance(module, BasicBlock):
            module.forward = partial(forward_out_of_place, module)
        if isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(lambda _, args: args[0].expand(BATCH, -1).contiguous())
    options = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": BATCH}
    if mode == "hooks":
        wrapped = GradSampleModule(model, strict=False)
        optimizer = DPOptimizer(make_optimizer(model), **options)
        criterion: Any = F.cross_entropy
    else:
        wrapped = GradSampleModuleFastGradientClipping(model, strict=False, max_grad_norm=1.0, use_ghost_clipping=True)
        optimizer = DPOptimizerFastGradientClipping(make_optimizer(model), **options)
        criterion = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss(), "mean")

    def step() -> None:
        optimizer.zero_grad()
        criterion(wrapped(data.image, data.ids), data.label).backward()
        optimizer.step()

    return step


def measure_cpu_seconds(step: Step) -> float:
    """Return the process CPU time of one step."""
    start = time.process_time()
    step()
    return time.process_time() - start


def measure_time_ratio(private: Step, plain: Step, pairs: int, warm: int) -> float:
    """Return the median ratio over pairs of steps taken in turn, after some private ones; the plain step is warm."""
    for _ in range(warm):
        private()
    return statistics.median([measure_cpu_seconds(private) / measure_cpu_seconds(plain) for _ in range(pairs)])


def measure_memory_ratio(name: str) -> float:
    """Return the memory of two private steps over that of two plain ones, each in a fresh process, side by side."""
    private, plain = [_measure_memory_in_child(name, make) for make in (make_bk_step, make_plain_step)]
    return _read_child_bytes(*private) / _read_child_bytes(*plain)


def _measure_memory_in_child(name: str, make: Callable[[nn.Module, Data], Step]) -> tuple[int, int]:
    """Start a process that takes two steps; return its id and the pipe into which it writes the bytes it needed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        before = _read_proc_status("VmRSS")
        step = make(MODELS[name](), make_data())
        step()
        step()
        os.write(write, str(_read_proc_status("VmHWM") - before).encode())
        os._exit(0)
    os.close(write)
    return child, read


def _read_child_bytes(child: int, read: int) -> int:
    with os.fdopen(read) as pipe:
        size = int(pipe.read())
    os.waitpid(child, 0)
    return size


def _read_proc_status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure_noise_share(private_seconds: float, weights: int) -> float:
    """Return the part of a private step that its noise takes."""
    noise, total = NoiseSource(), torch.zeros(weights)
    noise.add_(total, 1.0)
    return statistics.median([measure_cpu_seconds(lambda: noise.add_(total, 1.0)) for _ in range(5)]) / private_seconds


def run_measurements(quick: bool) -> dict[str, float]:
    """Run everything and return the figures by key."""
    pairs, warm = (3, 1) if quick else (15, 2)
    found = {f"mem_{name}": measure_memory_ratio(name) for name in MODELS}  # before this process grows
    for name, build in MODELS.items():
        torch.manual_seed(0)
        data, model = make_data(), build()
        private, plain = make_bk_step(model, data), make_plain_step(build(), data)
        plain()
        found[f"bk_{name}"] = measure_time_ratio(private, plain, pairs, warm)
        if name == "resnet18":
            step = statistics.median([measure_cpu_seconds(private) for _ in range(3)])
            found["noise_share"] = measure_noise_share(step, sum(p.numel() for p in model.parameters()))
        modes = [FASTER[name]] if quick else ["hooks", "ghost"]
        found[f"opacus_{name}"] = min(
            measure_time_ratio(make_opacus_step(build(), data, mode), plain, pairs=1 if quick else 5, warm=1)
            for mode in modes
        )
    return found


def format_table(found: dict[str, float]) -> str:
    """Return the figures beside their targets."""
    lines = [f"{'':16}{'bk':>8}{'target':>8}{'opacus':>8}{'memory':>8}{'target':>8}"]
    for name in MODELS:
        bk, opacus, memory = (found[f"{kind}_{name}"] for kind in ("bk", "opacus", "mem"))
        lines.append(f"{name:16}{bk:8.2f}{TARGETS[f'bk_{name}']:8.2f}{opacus:8.2f}{memory:8.2f}{TARGETS['mem']:8.2f}")
    lines.append(f"{'noise share':16}{found['noise_share']:8.3f}{TARGETS['noise_share']:8.2f}")
    return "\n".join(lines)


def main() -> None:
    """Print the table and, as the last line, the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Opacus's and peft's, about their own use of torch
    found = run_measurements(quick)
    print(format_table(found))
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


if __name__ == "__main__":
    main()
