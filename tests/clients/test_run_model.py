"""The virtual sites of a process train one model, one after another: with the bits of sites that have one each."""

import gc
import weakref

import pytest
import torch
from safetensors.numpy import load_file

from clients import app
from clients.institution import Institution
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.models.fusion import ConcatFusion
from fedhealth.models.multimodal import build_model
from fedhealth.runs.run_dir import RunDir
from tests.seeded_noise import seed_noise

SITES = ("north", "south", "east")
METHODS = {
    "none": ["training=sgd"],
    "fedbn": ["personalization=fedbn"],
    "ditto": pytest.param(["personalization=ditto"], marks=pytest.mark.long),
    "private": ["privacy=patient", "personalization=fedper"],
    "scaffold": pytest.param(["method=scaffold"], marks=pytest.mark.long),
    "apfl": pytest.param(["personalization=apfl"], marks=pytest.mark.long),
    "mr_mtl": pytest.param(["personalization=mr_mtl"], marks=pytest.mark.long),
    "fedrep": pytest.param(["personalization=fedrep"], marks=pytest.mark.long),
    "fedtower": pytest.param(["personalization=fedtower"], marks=pytest.mark.long),
    "finetune": pytest.param(["personalization=finetune"], marks=pytest.mark.long),
    "late": pytest.param(["strategy.staleness=0.5"], marks=pytest.mark.long),
}


class CountingFusion(ConcatFusion):
    """A fusion whose results depend on the number of batches that it has seen: on no trained array."""

    def __init__(self, widths, outputs, hidden, dropout, zero):
        super().__init__(widths, outputs, hidden, dropout, zero)
        self.set_up()

    def set_up(self):
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, features):
        return super().forward([each * (1 + 0.1 * self.count(each)) for each in features])

    def count(self, features):
        if self.training:
            self.batches += 1
        return self.batches


class ReplacingFusion(CountingFusion):
    """Its buffer is another tensor after each batch, and one of inference mode after an evaluation."""

    batches: torch.Tensor

    def count(self, features):
        self.batches = self.batches + 1
        return self.batches


class GrowingFusion(CountingFusion):
    """It keeps a memory of the batches."""

    memory: torch.Tensor

    def set_up(self):
        self.register_buffer("memory", torch.zeros(0))

    def count(self, features):
        self.memory = torch.cat([self.memory, features.detach().mean()[None]])
        return self.memory.sum()


class LazyFusion(CountingFusion):
    """It makes its buffers when they are needed."""

    center: torch.Tensor | None

    def set_up(self):
        self.register_buffer("center", None)

    def count(self, features):
        if self.center is None:
            self.center = features.detach().mean()
            self.register_buffer("spread", features.detach().std())
        return self.center + self.spread


class CachingFusion(CountingFusion):
    """An attribute tells how long its buffer is."""

    positions: torch.Tensor

    def set_up(self):
        self.register_buffer("positions", torch.arange(2))
        self.length = 2

    def count(self, features):
        if self.training and self.length < 3:
            self.positions, self.length = torch.arange(3), 3
        return self.positions[self.length - 1]


@pytest.fixture(name="run")
def run_(tmp_path, good_hospitals, tiny_overrides):
    def go(name, *overrides):
        folder = RunDir(tmp_path / name)
        with seed_noise("run_model"):
            launch_run(RunSpec.compose([*tiny_overrides(good_hospitals), *overrides], folder))
        files = [folder.path / "model.safetensors"]
        files += [path for site in SITES for path in sorted(folder.site_dir(site).glob("*.safetensors"))]
        found = {path.relative_to(folder.path): sorted(load_file(path).items()) for path in files}
        arrays = {(path, name): array.tobytes() for path, named in found.items() for name, array in named}
        return (folder.path / "evaluation.json").read_bytes(), arrays

    return go


@pytest.fixture(name="separate")
def separate_(monkeypatch):
    """Give each site a model of its own."""

    def apply():
        monkeypatch.setattr(app, "Institution", lambda site, config, digest, _: Institution(site, config, digest))

    return apply


@pytest.mark.parametrize("overrides", METHODS.values(), ids=METHODS)
def test_sites_that_share_a_model_have_the_bits_of_sites_with_their_own(run, separate, overrides):
    shared = run("shared", *overrides)
    separate()
    assert shared == run("own", *overrides)


@pytest.mark.parametrize("name", ["Counting", "Replacing", "Growing", "Lazy", "Caching"])
def test_what_a_site_changes_beside_the_trained_arrays_reaches_no_other_site(run, separate, name):
    fusion = f"model.fusion._target_=tests.clients.test_run_model.{name}Fusion"
    shared = run("shared", fusion)
    separate()
    assert shared == run("own", fusion)


def test_one_model_is_built_for_all_sites_and_freed_with_its_job(run, monkeypatch):
    built = []

    def build(*args):
        model = build_model(*args)
        built.append(weakref.ref(model))
        return model

    monkeypatch.setattr("clients.run_model.build_model", build)
    run("first")
    assert len(built) == 1
    run("second", "seed=1")
    gc.collect()
    assert [model() is None for model in built] == [True, False]
