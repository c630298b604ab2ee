"""bf16, channels last and compiled models: gradients, memory order, and private training in half precision."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedhealth.config.schema import DataConfig, ModelConfig, Precision, TaskKind, TrainingConfig
from fedhealth.errors import ModelError, PrivacyError
from fedhealth.models.multimodal import build_model
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.engines.base import get_trainable_parameters
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.opacus_hooks import OpacusEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.engines.self_check import run_self_check
from fedhealth.privacy.engines.step import sum_clipped_gradients
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.precision import autocast_forward, compile_model, is_bf16, use_channels_last
from fedhealth.training.private_batches import build_loss_fn, list_checked_losses
from fedhealth.training.trainer import PlainTrainer
from fedhealth.utils.activation_checkpointing import has_checkpointed_blocks
from tests.fedhealth.privacy.toys import relative_error, sums
from tests.fedhealth.training.test_gradient_paths import compute_single_gradients, make_task, take_batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
ENGINES = [BookKeepingEngine, OpacusEngine, OracleEngine]
BF16_ERROR = 0.15  # of a sum of gradients, relative to the mean norm of its terms: images are noise here
BOUND = 0.3


def measure_error(found, truth, scale):
    """Return the distance of two gradients relative to `scale`: gradients of different rows may cancel in their sum."""
    return float(sum((found[name].cpu() - value.cpu()).square().sum() for name, value in truth.items()).sqrt()) / scale


def compute_mean_norm(task):
    """Return the mean norm of the gradients of single rows."""
    single = compute_single_gradients(task, take_batch(task, task.rows))
    return float(sum(value.flatten(1).square().sum(1) for value in single.values()).sqrt().mean())


def fit_once(device="cpu", **changes):
    """Return the gradient of one plain step by name, the mean loss, and the model."""
    task = make_task(TaskKind.binary, **changes)
    task.model.to(device)
    report = PlainTrainer().fit(task)
    return {name: torch.from_numpy(-value) for name, value in report.direction.items()}, report.loss, task.model


def make_private_batch(device="cpu", **changes):
    task = make_task(TaskKind.binary, **changes)
    task.model.to(device)
    batch = {name: value.to(device) for name, value in take_batch(task, task.rows).items()}
    return task, batch, task.examples.patient.tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_a_bf16_step_is_close_to_float32_and_leaves_float32_weights_on_cpu_and_cuda(device):
    truth, loss, _ = fit_once(device, precision=Precision.float32)
    found, low_loss, model = fit_once(device, precision=Precision.bf16)
    scale = compute_mean_norm(make_task(TaskKind.binary))
    assert 0 < measure_error(found, truth, scale) < BF16_ERROR  # zero: nothing was computed in bf16
    assert low_loss == pytest.approx(loss, rel=0.02)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled(device)


def test_a_bf16_step_accumulates_like_a_whole_one():
    whole, _, _ = fit_once(precision=Precision.bf16)
    parts, _, _ = fit_once(precision=Precision.bf16, micro_batch_size=5)
    assert measure_error(parts, whole, compute_mean_norm(make_task(TaskKind.binary))) < BF16_ERROR


@pytest.mark.parametrize(
    ("precision", "device", "is_private", "expected"),
    [
        (Precision.auto, CPU, False, False),
        (Precision.float32, CPU, False, False),
        (Precision.bf16, CPU, False, True),
        (Precision.bf16, CPU, True, True),
        (Precision.float32, CUDA, False, False),
        (Precision.auto, CUDA, True, False),  # unless asked for, private training computes in float32
        (Precision.bf16, CUDA, True, True),
    ],
)
def test_the_precision_of_each_device(precision, device, is_private, expected):
    assert is_bf16(TrainingConfig(precision=precision), device, is_private) is expected


@pytest.mark.parametrize("supported", [True, False])
def test_auto_takes_bf16_on_a_cuda_device_that_has_it(monkeypatch, supported):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert is_bf16(TrainingConfig(), CUDA) is supported


@pytest.mark.parametrize("device", DEVICES)
def test_channels_last_changes_the_order_during_training_only_on_cpu_and_cuda(monkeypatch, device):
    orders = []
    run_backward = torch.Tensor.backward

    def see_order(loss, *given, **named):
        convs = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
        orders.append([weight.is_contiguous(memory_format=torch.channels_last) for weight in convs])
        return run_backward(loss, *given, **named)

    monkeypatch.setattr(torch.Tensor, "backward", see_order)
    task = make_task(TaskKind.binary, channels_last=True, precision=Precision.float32)
    model = task.model.to(device)
    report = PlainTrainer().fit(task)
    assert orders == [[True, True]]
    assert all(p.is_contiguous() for p in model.parameters())
    assert all(value.flags.c_contiguous for value in report.direction.values())
    truth, _, _ = fit_once(device, channels_last=False, precision=Precision.float32)
    found = {name: torch.from_numpy(-value) for name, value in report.direction.items()}
    assert relative_error(found, truth) < (1e-5 if device == "cpu" else 5e-3)  # a GPU's convolutions keep three digits


def test_channels_last_is_left_again_where_training_fails():
    model = make_task(TaskKind.binary).model

    def fail_inside():
        with use_channels_last(model, TrainingConfig(channels_last=True)):
            assert not all(p.is_contiguous() for p in model.parameters())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert all(p.is_contiguous() for p in model.parameters())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_private_bf16_step_clips_in_float32_on_cpu_and_cuda(engine, device):
    task, batch, owners = make_private_batch(device, precision=Precision.bf16)
    clipping = Clipping(BOUND, "flat")
    exact = build_loss_fn(task.kind, replace(task.training, precision=Precision.float32))
    truth = sums(engine, task.model, exact, batch, owners, clipping)
    found = sums(engine, task.model, build_loss_fn(task.kind, task.training), batch, owners, clipping)
    assert 0 < measure_error(found, truth, BOUND) < BF16_ERROR * len(set(owners))
    assert {value.dtype for value in found.values()} == {torch.float32}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", ENGINES)
def test_no_patient_exceeds_the_bound_by_the_rounding_of_bf16_on_cpu_and_cuda(engine, device):
    task, batch, owners = make_private_batch(device, precision=Precision.bf16)
    loss_fn, named = build_loss_fn(task.kind, task.training), get_trainable_parameters(task.model)
    for patient in sorted(set(owners)):
        rows = torch.tensor([row for row, owner in enumerate(owners) if owner == patient], device=device)
        alone = {name: value[rows] for name, value in batch.items()}
        made = engine(task.model, loss_fn, Clipping(0.01, "flat"))
        total = sum_clipped_gradients(made, named, [(alone, [patient] * len(rows))])
        norm = torch.sqrt(sum(value.double().square().sum() for value in total.values()))
        # A norm in bf16 would be off by up to 4e-3.
        assert float(norm) == pytest.approx(0.01, rel=1e-5)


def test_a_gradient_of_a_step_without_patients_has_the_noise_of_a_row_major_sum():
    task = make_task(TaskKind.binary)
    with use_channels_last(task.model, TrainingConfig(channels_last=True)):
        engine = BookKeepingEngine(task.model, build_loss_fn(task.kind), Clipping(1.0))
        total = sum_clipped_gradients(engine, get_trainable_parameters(task.model), [])
    assert all(value.is_contiguous() for value in total.values())


def test_autocast_outside_of_the_forward_pass_is_refused():
    task, batch, owners = make_private_batch()
    engine = BookKeepingEngine(task.model, build_loss_fn(task.kind), Clipping(1.0))
    with pytest.raises(PrivacyError, match="autocast is on"), torch.autocast("cpu", torch.bfloat16):
        engine.accumulate(batch, owners)


@pytest.mark.parametrize("engine", [BookKeepingEngine, OpacusEngine])
def test_the_self_check_passes_in_bf16_and_finds_a_fault_there(engine):
    task, batch, owners = make_private_batch(precision=Precision.bf16)
    checked = list_checked_losses(task.kind, task.training, CPU)
    assert len(checked) == 2
    for loss_fn, tolerance in checked:
        run_self_check(engine, task.model, loss_fn, Clipping(1.0), batch, owners, tolerance)

    class Doubled(engine):  # type: ignore[valid-type, misc]
        def accumulate(self, batch, patients):
            found = super().accumulate(batch, patients)
            for p in get_trainable_parameters(self._model).values():
                if (summed := getattr(p, "summed_grad", None)) is not None:
                    p.summed_grad = summed * 1.2  # type: ignore[attr-defined]
            return found

    for loss_fn, tolerance in checked:
        with pytest.raises(PrivacyError, match="differs from the exact one"):
            run_self_check(Doubled, task.model, loss_fn, Clipping(1.0), batch, owners, tolerance)


def test_float32_training_is_checked_once():
    assert len(list_checked_losses(TaskKind.binary, TrainingConfig(), CPU)) == 1


def test_the_forward_pass_alone_is_in_bf16():
    with autocast_forward(TrainingConfig(precision=Precision.bf16), CPU):
        assert torch.get_autocast_dtype("cpu") is torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
    with autocast_forward(None, CPU):
        assert not torch.is_autocast_enabled("cpu")


def test_a_model_that_cannot_be_compiled_is_a_message(monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def fail(model):
        def run(batch):
            raise TorchDynamoException("no compiler here\nmore")

        return run

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(ModelError, match=r"cannot compile the model \(no compiler here\)"):
        compile_model(nn.Linear(1, 1), TrainingConfig(compile=True))({})


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_a_compiled_model_takes_the_same_step_on_cpu_and_cuda(monkeypatch, device):
    compiled, compile_as_usual = [], torch.compile

    def compile_without_code(model):  # the traced graph is run as it is: generated code takes minutes on a CPU
        compiled.append(model)
        return compile_as_usual(model, backend="aot_eager")

    if device == "cpu":
        monkeypatch.setattr(torch, "compile", compile_without_code)
    truth, _, _ = fit_once(device, precision=Precision.float32)
    found, _, model = fit_once(device, precision=Precision.float32, compile=True)
    assert relative_error(found, truth) < (1e-5 if device == "cpu" else 5e-3)
    assert device == "cuda" or compiled == [model]
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def make_deep_task(norm, **changes):
    """Return a task with an image encoder that has blocks."""
    image = {"_target_": "fedhealth.models.encoders.image.ImageEncoder", "architecture": "mobilenet_v2", "depth": 4}
    fusion = {"_target_": "fedhealth.models.fusion.ConcatFusion", "hidden": 4, "dropout": 0.3}
    data = DataConfig(name="t", root=".", sites=["a"])
    model = build_model(ModelConfig(6, image | {"norm": norm}, None, None, fusion), data, 0).train()
    return replace(make_task(TaskKind.binary, **changes), model=model)


@pytest.mark.parametrize("norm", ["keep", "group"])
@pytest.mark.parametrize(
    "changes", [{}, {"micro_batch_size": 5}, {"channels_last": True}, {"precision": Precision.bf16}]
)
def test_checkpointed_training_gives_the_same_bits(norm, changes):
    fits = []
    for is_on in (False, True):
        task = make_deep_task(norm, activation_checkpointing=is_on, **changes)
        report = PlainTrainer().fit(task)
        fits.append((report.loss, report.direction, {name: v.clone() for name, v in task.model.named_buffers()}))
    (loss, truth, buffers), (found_loss, found, found_buffers) = fits
    assert found_loss == loss
    assert all((found[name] == truth[name]).all() for name in truth)
    assert all(torch.equal(found_buffers[name], buffers[name]) for name in buffers)


def test_a_model_without_blocks_has_nothing_to_checkpoint():
    task = make_task(TaskKind.binary, activation_checkpointing=True)
    with pytest.raises(ModelError, match="no encoder has blocks"):
        PlainTrainer().fit(task)


def test_private_training_checkpoints_activations(monkeypatch, tmp_path):
    seen, accumulate = [], BookKeepingEngine.accumulate

    def look(engine, batch, patients):
        seen.append(has_checkpointed_blocks(task.model))
        return accumulate(engine, batch, patients)

    monkeypatch.setattr(BookKeepingEngine, "accumulate", look)
    trainer = DPSGDTrainer("t", 8.0, min_cohort=2, sample_rate=1.0, max_physical_batch_size=5)
    task = make_deep_task("group", activation_checkpointing=True)
    report = trainer.fit(task, AccountingContext("run", "north", tmp_path, 1, 2))
    assert seen == [True] * 3  # six patients with two rows each
    assert all(value.any() for value in report.direction.values())
    assert not has_checkpointed_blocks(task.model)
