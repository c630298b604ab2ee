"""What patient-level privacy costs: one training step against the same step without privacy.

One thread, process CPU time, private and plain steps in turn; noise and optimizer included. Memory is the highest
resident size of a fresh process during a step, less what it had before the model was built. Opacus runs in its faster
mode for each model (both modes without --quick), with in-place operations taken out and position ids expanded,
without which it fails or is wrong. It clips rows, so there is none where a patient has several.

The cases are models of `dp_models`; `_160` and `_224` are pixels, `_x4` are four rows of each patient. Figures are
`bk_` and `opacus_` (time of a private step over the plain one) and `mem_` (memory likewise).

Run `python -m benchmarks.dp --quick`; the last line is one JSON object.
"""

import argparse
import os
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from benchmarks.dp_models import LENGTH, VOCAB, ConvNeXt, Fused, Image, MobileNet, Text
from benchmarks.targets import Figure, report_figures
from benchmarks.timing import measure_cpu_seconds
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.engines.base import get_trainable_parameters
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource

MEMORY_TARGET, NOISE_TARGET = 2.0, 0.10

Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A model and its batch.

    Attributes:
        build: makes the model.
        target: the highest ratio of time.
        faster: Opacus's faster mode, `hooks` or `ghost`; empty where it has none.
        size: of the images, in pixels.
        rows: of the batch.
        per_patient: rows of each patient.

    """

    build: Callable[[], nn.Module]
    target: float
    faster: str
    size: int = 64
    rows: int = 32
    per_patient: int = 1


CASES = {
    "resnet18": Case(Image, 1.6, "hooks"),
    "bert": Case(Text, 1.35, "ghost"),
    "fusion": Case(Fused, 1.55, "ghost"),
    "lora": Case(partial(Text, rank=8), 1.1, "hooks"),
    "resnet18_x4": Case(Image, 1.6, "", per_patient=4),
    "bert_x4": Case(Text, 1.35, "", per_patient=4),
    "resnet18_160": Case(Image, 1.6, "hooks", 160, 8),
    "resnet18_224": Case(Image, 1.6, "hooks", 224, 8),
    "mobilenet_160": Case(MobileNet, 1.6, "hooks", 160, 8),
    "mobilenet_224_x4": Case(MobileNet, 1.6, "", 224, 8, 4),
    "convnext_224": Case(ConvNeXt, 1.6, "hooks", 224, 8),
}
FIGURES = (
    *(Figure(f"bk_{name}", "<=", case.target) for name, case in CASES.items()),
    *(Figure(f"mem_{name}", "<=", MEMORY_TARGET) for name in CASES),
    Figure("noise_share", "<=", NOISE_TARGET),
)


@dataclass(frozen=True)
class Data:
    """One batch, and the patient of each row."""

    image: Tensor
    ids: Tensor
    label: Tensor
    patients: list[int]


def make_data(case: Case) -> Data:
    """Return a batch of random rows."""
    images = torch.randn(case.rows, 3, case.size, case.size)
    ids, labels = torch.randint(1, VOCAB, (case.rows, LENGTH)), torch.randint(0, 2, (case.rows,))
    return Data(images, ids, labels, [row // case.per_patient for row in range(case.rows)])


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
    plan = PrivacyPlan("patient", 0.1, 10**6, 1, Clipping(1.0), 1.0, float(len(set(data.patients))), 1e-5, 1)
    engine, optimizer = (
        BookKeepingEngine(model, compute_row_losses, plan.clipping),
        NoisyOptimizer(make_optimizer(model), plan),
    )
    optimizer.allow_steps(plan.run_event)

    def step() -> None:
        optimizer.zero_grad()
        engine.accumulate(data, data.patients)
        optimizer.step()

    return step


def forward_out_of_place(block: BasicBlock, x: Tensor) -> Tensor:
    """Return what the block computes, without its `out += identity`, on which Opacus's hooks fail."""
    out = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    return F.relu(out + (x if block.downsample is None else block.downsample(x)))


def make_opacus_step(model: nn.Module, data: Data, mode: str) -> Step:
    """Return Opacus's own step: per-sample gradients by `hooks`, or `ghost` clipping."""
    rows = len(data.label)
    for module in model.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False
        if isinstance(module, BasicBlock):
            module.forward = partial(forward_out_of_place, module)
        if isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(lambda _, args: args[0].expand(rows, -1).contiguous())
    options = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": rows}
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


def measure_time_ratio(private: Step, plain: Step, pairs: int, warm: int) -> float:
    """Return the median ratio over pairs of steps taken in turn, after some private ones; the plain step is warm."""
    for _ in range(warm):
        private()
    return statistics.median([measure_cpu_seconds(private) / measure_cpu_seconds(plain) for _ in range(pairs)])


def measure_memory_ratio(case: Case) -> float:
    """Return the memory of two private steps over that of two plain ones, each in a fresh process, side by side."""
    private, plain = [_measure_memory_in_child(case, make) for make in (make_bk_step, make_plain_step)]
    return _read_child_bytes(*private) / _read_child_bytes(*plain)


def _measure_memory_in_child(case: Case, make: Callable[[nn.Module, Data], Step]) -> tuple[int, int]:
    """Start a process that takes two steps; return its id and the pipe into which it writes the bytes it needed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        before = _read_proc_status("VmRSS")
        step = make(case.build(), make_data(case))
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


def measure_case(name: str, case: Case, *, quick: bool) -> Iterator[tuple[str, float]]:
    """Yield the case's ratios of time: of our engine, and of Opacus where it has a private step."""
    pairs, warm = (3, 1) if quick else (15, 2)
    torch.manual_seed(0)
    data, model = make_data(case), case.build()
    private, plain = make_bk_step(model, data), make_plain_step(case.build(), data)
    plain()
    yield f"bk_{name}", measure_time_ratio(private, plain, pairs, warm)
    if name == "resnet18":
        step = statistics.median([measure_cpu_seconds(private) for _ in range(3)])
        yield "noise_share", measure_noise_share(step, sum(p.numel() for p in model.parameters()))
    if case.faster:
        modes = [case.faster] if quick else ["hooks", "ghost"]
        yield (
            f"opacus_{name}",
            min(
                measure_time_ratio(make_opacus_step(case.build(), data, mode), plain, pairs=1 if quick else 5, warm=1)
                for mode in modes
            ),
        )


def measure_figures(*, quick: bool) -> Iterator[tuple[str, float]]:
    """Yield (name, value); memory first, before this process grows."""
    for name, case in CASES.items():
        yield f"mem_{name}", measure_memory_ratio(case)
    for name, case in CASES.items():
        yield from measure_case(name, case, quick=quick)


def main() -> None:
    """Print the table and, as the last line, the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps: two to three minutes")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Opacus's and peft's, about their own use of torch
    report_figures(measure_figures(quick=quick), FIGURES)


if __name__ == "__main__":
    main()
