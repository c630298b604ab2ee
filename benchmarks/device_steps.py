"""The steps of `benchmarks.device_check`: what a GPU computes, and how fast.

The model is that of the dermatology experiment, trained whole: MobileNetV2 on 160 px images, words, age, sex and site.
Images are random and weights untrained: only speed and rounding are measured. Training goes through the trainers' own
`fit`, data loading, ledger, noise and optimizer included. The last line is one JSON object.
"""

import argparse
import json
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from benchmarks.device_check import VARIANTS
from fedhealth.config.compose import compose_config
from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config, Precision
from fedhealth.data import tabular
from fedhealth.data.examples import Examples, ModalitySource
from fedhealth.models.multimodal import build_model
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.engines.base import get_trainable_parameters
from fedhealth.privacy.engines.step import sum_clipped_gradients
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.training.precision import use_channels_last
from fedhealth.training.private_batches import build_loss_fn, load_unit_batch
from fedhealth.training.trainer import PlainTrainer, TrainingTask

# Of 16 patients' clipped sum, for each patient and relative to the bound, in 53 untrained layers: float32 on
# two devices, of TF32 (ten bits; torch's default in convolutions) and of bf16 (eight bits).
HIGHEST_ERRORS = {"float32": 2e-3, "tf32": 0.1, "bf16": 0.3}
BOUND_ERROR = 1e-4  # of the norm of a clipped gradient
ROWS = {"cuda": 2048, "cpu": 24}
BATCH = {"cuda": 128, "cpu": 4}
SIZE = {"cuda": 160, "cpu": 64}
STEPS = {"cuda": 60, "cpu": 2}
WARM_UP = {"cuda": 5, "cpu": 1}
MODEL = [
    "data=derm",
    "data.root=unused",
    "model/text=words",
    "model/image=mobilenet_v2",
    "model.image.weights=null",
    "model.image.train=all",
    "training.optimizer.lr=1e-5",
    "strategy.rounds=2",
]
NO_PRIVACY = ["privacy=none"]
PRIVACY = ["privacy=patient", "privacy.clipping=flat", "privacy.max_physical_batch_size=128", "model.image.norm=group"]


def main() -> None:
    """Run one step and print its result."""
    parser = argparse.ArgumentParser(description="One step of the device check.")
    parser.add_argument("step", choices=["environment", "equality", "throughput"])
    parser.add_argument("variant", nargs="?", choices=VARIANTS)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    arguments = parser.parse_args()
    if arguments.step == "environment":
        result = describe_environment(arguments.device)
    elif arguments.step == "equality":
        result = compare_precisions(arguments.device)
    else:
        result = measure_throughput(arguments.variant or VARIANTS[0], arguments.device)
    print(json.dumps(result))


def describe_environment(device: str) -> dict[str, Any]:
    """Return the device's name and the versions of what computes on it."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if device == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {"device": about.name, "gigabytes": f"{about.total_memory / 2**30:.0f}"}
        found["bf16"] = str(torch.cuda.is_bf16_supported(including_emulation=False))
    return found


def make_task(device: str, overrides: list[str], rows: int) -> tuple[TrainingTask, Config]:
    """Return a training task with a model on the device and random data of that many patients, one row each."""
    settings = [*MODEL, f"data.image.size={SIZE[device]}", f"training.batch_size={BATCH[device]}"]
    composed = compose_config([*settings, f"training.local_steps={STEPS[device]}", *overrides])
    config: Config = OmegaConf.to_object(composed)  # type: ignore[assignment]
    model = build_model(config.model, config.data, 0).to(device)
    draw, index = np.random.default_rng(0), np.arange(rows)
    pixels = draw.integers(0, 256, (rows, 3, SIZE[device], SIZE[device]), dtype=np.uint8)
    words = model.towers["text"].encoder.tokenize([f"age {row % 90} on the back" for row in range(rows)])  # type: ignore[operator, union-attr]
    variables = draw.normal(size=(rows, tabular.count_features(config.data.tabular))).astype(np.float32)
    values = {"image": pixels, "text": words, "tabular": variables}
    sources = {name: ModalitySource(value, index) for name, value in values.items()}
    labels = (index % 4 == 0).astype(np.float32)[:, None]
    examples = Examples(sources, labels, index, index)
    return TrainingTask(model.train(), examples, index, config.training, config.data.task.kind, 0), config


def compare_precisions(device: str) -> dict[str, Any]:
    """Compare gradients of one batch: float32 on the CPU and on the device, and bf16; and norms after clipping.

    Raises:
        SystemExit: one of them is too far away.

    """
    few = ["model.fusion.dropout=0", *PRIVACY]  # group norm: rows are independent, so single gradients exist
    task, config = make_task(device, few, 16)
    model, wide = task.model, replace(task.training, precision=Precision.float32)
    make_engine, named = instantiate(config.privacy).make_engine, get_trainable_parameters(model)
    bound = Clipping(1.0, "flat")

    def sum_gradients(place: str, training: Any, rows: list[int]) -> dict[str, torch.Tensor]:
        model.to(place)
        torch.manual_seed(0)
        engine = make_engine(model, build_loss_fn(task.kind, training), bound)
        batch = load_unit_batch(task.examples, rows, torch.device(place))
        with use_channels_last(model, training):
            found = sum_clipped_gradients(engine, named, [(batch, rows)])
        return {name: value.double().cpu() for name, value in found.items()}

    model.eval()  # no random layers
    rows = list(range(16))
    truth = sum_gradients("cpu", wide, rows)
    arms = {"float32": (wide, False), "tf32": (wide, True), "bf16": (replace(wide, precision=Precision.bf16), True)}
    result: dict[str, Any] = {}
    for name, (training, may_round) in arms.items():
        torch.backends.cudnn.allow_tf32 = may_round
        error = compute_distance(sum_gradients(device, training, rows), truth) / len(rows)
        norm = max(compute_norm(sum_gradients(device, training, [row])) for row in rows[:4])
        result |= {f"{name}_error": round(error, 6), f"{name}_highest_norm": round(norm, 7)}
        if error > HIGHEST_ERRORS[name] or norm > 1 + BOUND_ERROR:
            result["failed"] = f"{result.get('failed', '')} {name}".strip()
    if "failed" in result:
        print(json.dumps(result))
        raise SystemExit(1)
    return result


def compute_norm(gradients: dict[str, torch.Tensor]) -> float:
    """Return the L2 norm of all of them together."""
    return float(sum(value.square().sum() for value in gradients.values())) ** 0.5


def compute_distance(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Return the L2 distance of two gradients."""
    return compute_norm({name: left[name] - right[name] for name in right})


def measure_throughput(variant: str, device: str) -> dict[str, Any]:
    """Return samples per second of a round of training, the seconds of the round before, and the peak memory."""
    is_private = variant.startswith("private")
    overrides = [
        f"training.precision={'bf16' if 'bf16' in variant else 'float32'}",
        f"training.channels_last={'true' if 'channels_last' in variant else 'false'}",
        f"training.compile={'true' if 'compiled' in variant else 'false'}",
        *(PRIVACY if is_private else NO_PRIVACY),
    ]
    steps_override = [f"training.local_steps={STEPS[device] // 3 or 1}"] if is_private else []
    task, config = make_task(device, [*overrides, *steps_override], ROWS[device])
    trainer = instantiate(config.privacy) if is_private else PlainTrainer()
    first = replace(task, training=replace(task.training, local_steps=WARM_UP[device]))
    phases = measure_phases(task, trainer) if is_private else {}
    print(json.dumps(phases), flush=True)  # in the log also if a round takes too long
    with tempfile.TemporaryDirectory() as folder:
        warm_up = run_round(trainer, first, Path(folder) / "first")
        print(json.dumps({"warm_up_seconds": warm_up}), flush=True)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = run_round(trainer, task, Path(folder) / "second")
    steps = task.training.local_steps or 1
    images = steps * BATCH[device]  # of private steps the expected number
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {
        "samples_per_second": round(images / seconds, 1),
        "step_ms": round(1000 * seconds / steps, 1),
        "warm_up_seconds": round(warm_up, 1),
        "peak_gigabytes": round(peak, 2),
        **phases,
    }


def measure_phases(task: TrainingTask, trainer: Any) -> dict[str, float]:
    """Return the milliseconds of parts of a private step: loading, clipped sums, the noise of all parameters."""
    model, device = task.model, next(task.model.parameters()).device
    named, noise = get_trainable_parameters(model), NoiseSource()
    engine = trainer.make_engine(model, build_loss_fn(task.kind, task.training), Clipping(1.0, "flat"))
    rows = list(range(task.training.batch_size))
    found: dict[str, float] = {}
    for name in ("first", "again"):
        with use_channels_last(model, task.training):
            started = wait_for(device)
            batch = load_unit_batch(task.examples, rows, device)
            loaded = wait_for(device)
            sums = sum_clipped_gradients(engine, named, [(batch, rows)])
            clipped = wait_for(device)
        for value in sums.values():
            noise.add_(value, 1.0)
        noised = wait_for(device)
        parts = {"load": loaded - started, "clip": clipped - loaded, "noise": noised - clipped}
        found |= {f"{name}_{part}_ms": round(1000 * seconds, 1) for part, seconds in parts.items()}
    return found


def wait_for(device: torch.device) -> float:
    """Return the time once the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def run_round(trainer: Any, task: TrainingTask, folder: Path) -> float:
    """Train for one round and return its seconds."""
    folder.mkdir()
    started = time.perf_counter()
    trainer.fit(task, AccountingContext("device-check", "here", folder, 1, 1))
    if next(task.model.parameters()).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
