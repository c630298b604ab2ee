"""A part of an own package that lacks something is named with its file and what is missing, before a run starts."""

import inspect
import sys

import pytest

import fedhealth
from clients.personalization.base import Personalization
from clients.transport.base import Transport
from fedhealth.config import part_contracts
from fedhealth.config.capabilities import get_capability
from fedhealth.config.part_contracts import build_part
from fedhealth.data.image_source import ImageSource
from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.experiment.tracking import Tracker
from fedhealth.ingest.settings import IngestTable
from fedhealth.ingest.source import IngestSource
from fedhealth.ingest.table_source import TableSource, build_table_source
from fedhealth.models.encoders.base import Encoder, TokenizingEncoder
from fedhealth.training.trainer import Trainer
from strategies.aggregation.base import Aggregation
from strategies.server_optimizers.base import ServerOptimizer
from strategies.server_state.base import ServerMethodState

PROTOCOLS = {
    "AGGREGATION": Aggregation,
    "SERVER_OPTIMIZER": ServerOptimizer,
    "SERVER_STATE": ServerMethodState,
    "PERSONALIZATION": Personalization,
    "TRAINER": Trainer,
    "TRANSPORT": Transport,
    "TRACKER": Tracker,
    "ENCODER": Encoder,
    "TEXT_ENCODER": TokenizingEncoder,
    "IMAGE_SOURCE": ImageSource,
    "TABLE_SOURCE": TableSource,
    "INGEST_SOURCE": IngestSource,
}
WITH_DEFAULT = {"sees_single_updates", "requires", "sends_plain_gradients", "keeps_arrays", "provides", "is_private"}
WITH_DEFAULT |= {"unit", "is_plaintext", "may_have_own_adapters"}
PACKAGE = '''
from torch import nn
from fedhealth.errors import DataError
from strategies import Aggregation, StatelessAggregation
from clients.personalization.base import BasePersonalization

class Half(StatelessAggregation):
    def add(self, site, content): ...
class Stub(Aggregation):
    """Inherits the protocol, whose methods do nothing."""
class NoState:
    def step(self, arrays, update): return arrays
class NoStep:
    def __init__(self): self.state = {}
class OnlyTrain:
    personal_model_is_dp = True
    def train(self, local): ...
class NoWidth(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layer = nn.Linear(inputs, 4)
    def forward(self, values): return self.layer(values)
class WidthOfText(NoWidth):
    width = "four"
class Misspelt(NoWidth):
    width = 4
    def forward(self, values): return self.laier(values)
class Plain:
    width = 4
    def __init__(self, inputs): ...
    def forward(self, values): return values
class NoPad(nn.Module):
    width = 4
    def forward(self, values): return values
    def tokenize(self, texts): ...
class NoTable:
    name = "x"
def silent(): raise ValueError
def half(): return Half()
'''


@pytest.fixture(scope="module", name="conf")
def conf_(tmp_path_factory):
    """Options of an own package that each lack something; return their folder."""
    root = tmp_path_factory.mktemp("own")
    (root / "halfparts.py").write_text(PACKAGE, "utf-8")
    (root / "brokenparts.py").write_text("nothing_like_that\n", "utf-8")
    files = {
        "strategy/aggregation/half": "_target_: halfparts.Half",
        "strategy/aggregation/stub": "_target_: halfparts.Stub",
        "strategy/aggregation/silent": "_target_: halfparts.silent",
        "strategy/aggregation/made": "_target_: halfparts.half",
        "strategy/aggregation/broken": "_target_: brokenparts.Half",
        "strategy/aggregation/nothing": "trim: 1",
        "strategy/server_optimizer/nostate": "_target_: halfparts.NoState",
        "strategy/server_optimizer/nostep": "_target_: halfparts.NoStep",
        "personalization/train": "_target_: halfparts.OnlyTrain",
        "model/tabular/nowidth": "_target_: halfparts.NoWidth",
        "model/tabular/four": "_target_: halfparts.WidthOfText",
        "model/tabular/misspelt": "_target_: halfparts.Misspelt",
        "model/tabular/plain": "_target_: halfparts.Plain",
        "model/text/nopad": "_target_: halfparts.NoPad",
    }
    for name, text in files.items():
        (root / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "conf" / f"{name}.yaml").write_text(text + "\n", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        yield root / "conf"
    for module in ("halfparts", "brokenparts"):
        sys.modules.pop(module, None)


def list_members(protocol):
    """Return the methods, and the other attributes, that a protocol names."""
    names = {n: v for base in protocol.__mro__ if getattr(base, "_is_protocol", False) for n, v in vars(base).items()}
    methods = {name for name, value in names.items() if inspect.isfunction(value) and not name.startswith("_")}
    read = {name for name, value in names.items() if isinstance(value, property)}
    annotated = {n for base in protocol.__mro__ for n in vars(base).get("__annotations__", {}) if not n.startswith("_")}
    return methods, read | annotated


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_contract_names_what_its_protocol_names(name):
    contract, (methods, attributes) = getattr(part_contracts, name), list_members(PROTOCOLS[name])
    assert set(contract.methods) == methods
    assert set(contract.attributes) == attributes - WITH_DEFAULT


def test_what_has_a_default_is_read_with_it():
    assert get_capability({"_target_": "builtins.object"}, "keeps_arrays", default=True)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("strategy/aggregation=half", ["strategy.aggregation", "halfparts.Half", "halfparts.py", "no open, close;"]),
        ("strategy/aggregation=stub", ["halfparts.Stub", "start, admit", "open, complete_request, add, close"]),
        ("strategy/aggregation=made", ["halfparts.half", "halfparts.py", "no open, close"]),
        ("strategy/aggregation=silent", ["halfparts.silent cannot be built: silent (", "raised ValueError"]),
        ("strategy/aggregation=broken", ["cannot load 'brokenparts.Half'", "nothing_like_that"]),
        ("strategy/aggregation=nothing", ["strategy/aggregation/nothing.yaml names no class", "_target_: package"]),
        ("strategy/server_optimizer=nostate", ["strategy.server_optimizer", "halfparts.NoState", "no state;"]),
        ("strategy/server_optimizer=nostep", ["halfparts.NoStep", "no step;", "docs/add-a-server-optimizer.md"]),
        ("personalization=train", ["halfparts.OnlyTrain", "no freeze, select_shared, get_extra_shapes,"]),
        ("model/tabular=nowidth", ["model.tabular", "halfparts.NoWidth", "halfparts.py", "no width;"]),
        ("model/tabular=four", ["model.tabular: halfparts.WidthOfText (", ".width is no number of features: 'four'"]),
        (
            "model/tabular=misspelt",
            ["model.tabular: Misspelt.forward (", "halfparts.py, line", "raised AttributeError", "laier"],
        ),
        ("model/tabular=plain", ["model.tabular: halfparts.Plain (", "halfparts.py) is no torch.nn.Module"]),
        ("model/text=nopad", ["model.text", "halfparts.NoPad", "no pad;"]),
    ],
)
def test_a_part_that_lacks_something_is_named_before_the_run(
    conf, tmp_path, good_hospitals, tiny_overrides, override, named
):
    overrides = [o for o in tiny_overrides(good_hospitals) if override[:10] != "model/text" or "text" not in o]
    with pytest.raises(FedhealthError) as caught:
        fedhealth.run([*overrides, override], folder=tmp_path / "run", config_dir=conf, progress=False)
    for text in named:
        assert text in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_data_source_that_lacks_something_is_named(conf):
    with pytest.raises(ConfigError, match=r"source: halfparts.NoTable .* has no describe_request, read_table;"):
        build_table_source(IngestTable(keys={"patient": "pid"}, source={"_target_": "halfparts.NoTable"}))


def test_what_an_object_computes_itself_counts(monkeypatch):
    class Proxy:
        def __getattr__(self, name):
            return name

    monkeypatch.setattr(sys.modules[__name__], "Proxy", Proxy, raising=False)
    contract = part_contracts.PartContract("here", ("step",), ("state",))
    assert build_part({"_target_": f"{__name__}.Proxy"}, "x", contract).state == "state"
