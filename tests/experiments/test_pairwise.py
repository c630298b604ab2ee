"""Every option with every other: each pair of choices is trained for two rounds somewhere below, or is refused.

A new personalization, method or server optimizer is part of it by having its yaml file.
"""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import RecordDict
from safetensors.numpy import load_file

from clients.app import get_job_cache
from fedhealth.config.compose import compose_config, get_conf_dir, resolve_config
from fedhealth.config.incompatibilities import INCOMPATIBILITIES, find_incompatibilities
from fedhealth.config.validate import validate_config
from fedhealth.errors import ConfigError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.flower.in_process_grid import InProcessGrid
from fedhealth.models.modality_keys import METHOD
from fedhealth.protocol.array_codec import get_packed_bytes, unpack_arrays
from fedhealth.protocol.messages import EVALUATE, GLOBAL, TRAIN, UPDATE
from fedhealth.runs.run_dir import PERSONAL_FILE, PRIVATE_FILE, RunDir
from tests.experiments.covering import covering, pairs_of

pytestmark = pytest.mark.xdist_group("pairwise")  # one process chooses the cases: that takes eight seconds
ROUNDS = 2
SITES = ("north", "south", "east")
CONTRIBUTED = {"mr_mtl", "scaffold"}  # what these keep is what they contribute, by their papers
ADAPTERS = "model.text.lora={_target_:fedhealth.models.lora.LoraSettings,rank:2,alpha:4,targets:[query,value]}"
CHECKPOINTING = "training.activation_checkpointing=true"


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (get_conf_dir() / group).glob("*.yaml"))


METHODS = {name: [f"personalization={name}"] for name in _options("personalization")}
METHODS |= {name: [f"method={name}"] for name in _options("method") if name != "fedavg"}
METHODS["fedsgd"].append("training.local_steps=1")
TOWERS = {
    "image": ["model.text=null", "model.tabular=null"],
    "text": ["model.image=null", "model.tabular=null"],
    "tabular": ["model.image=null", "model.text=null"],
    "fusion": [],
    "lora": ["model.tabular=null", "model.text.layers=1", "model.text.train=none", ADAPTERS],
}
TRAINING = {
    "plain": [],
    "schedule": ["training.schedule=cosine", "training.warmup=1"],
    "weighted": ["training.prevalence=[0.3]", "training.label_smoothing=0.1"],
    "augmented": ["training/augmentation=medical", "training.augmentation.copies=2"],
    "accumulated": ["training.micro_batch_size=3"],
    "bf16": ["training.precision=bf16", "training.channels_last=true"],
    "dropout": ["model.modality_dropout=0.3"],
}
SELECTION = {"last": [], "average": ["strategy.ema=0.5"], "best": ["strategy.select=best"]}
FACTORS = {
    "method": list(METHODS),
    "privacy": ["none", "patient"],
    "secagg": ["off", "on"],
    "towers": list(TOWERS),
    "optimizer": [name for name in _options("strategy/server_optimizer") if name != "training"],  # of fedsgd only
    "modalities": ["all", "missing"],
    "training": list(TRAINING),
    "selection": list(SELECTION),
}


COMMON = ["data.root=/data", "model/text=words"]
SECTIONS = ("model", "training", "strategy")


def words_of(case):
    """Return the overrides of a (partial) case."""
    overrides = [*METHODS.get(case.get("method"), []), *TOWERS.get(case.get("towers"), [])]
    overrides += [f"{group}={case[group]}" for group in ("privacy", "secagg") if group in case]
    overrides += [*TRAINING.get(case.get("training"), []), *SELECTION.get(case.get("selection"), [])]
    if "optimizer" in case:
        overrides.append(f"strategy/server_optimizer={case['optimizer']}")
    return overrides


class Allowed:
    """Asks the table of impossible pairs. Options are composed one by one: each changes settings of its own.

    What is not chosen yet forbids nothing: a method that needs adapters is possible while some towers have them.
    """

    def __init__(self):
        self._default = self._settings({})
        self._changes = {
            (factor, option): {key: value for key, value in self._settings(case).items() if value != self._default[key]}
            for factor, options in FACTORS.items()
            for option in options
            for case in [{factor: option}]
        }

    def __call__(self, case):
        if "method" in case and "towers" not in case:
            return any(self({**case, "towers": towers}) for towers in TOWERS)
        settings = dict(self._default)
        for item in case.items():
            settings |= self._changes[item]
        plain = {section: {} for section in SECTIONS}
        for (section, key), value in settings.items():
            if key:
                plain[section][key] = value
            else:
                plain[section] = value
        return not any(pair.holds(plain) for pair in INCOMPATIBILITIES)

    @staticmethod
    def _settings(case):
        plain = resolve_config(compose_config([*COMMON, *words_of(case)]))
        whole = {(section, None): plain[section] for section in ("privacy", "secagg", "personalization")}
        return whole | {(section, key): value for section in SECTIONS for key, value in plain[section].items()}


class Tapped(InProcessGrid):
    """A grid that writes down what went to each site and what left it; may restart the sites before each message."""

    restart = False
    last: Tapped

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.messages = []  # (type, site, arrays that came, what left)
        Tapped.last = self

    def pull_messages(self, message_ids):
        for message_id in message_ids:
            message = self._pushed[message_id]
            if self.restart:
                get_job_cache.cache_clear()
            content = message.content
            incoming = unpack_arrays(content[GLOBAL]) if GLOBAL in content else {}
            [reply] = super().pull_messages([message_id])
            metadata = message.metadata
            assert not reply.has_error(), (metadata.message_type, reply.error)
            self.messages.append((metadata.message_type, SITES[metadata.dst_node_id - 1], incoming, reply.content))
            yield reply


@pytest.fixture(scope="module")
def data(tmp_path_factory, good_hospitals, site_writer, table_writer):
    """The three hospitals, and the same where `east` has no images and some of `south` neither notes nor labs."""
    root = tmp_path_factory.mktemp("missing")
    for seed, site in enumerate(SITES):
        rows = site_writer(root, site, seed=seed)
        for number, row in enumerate(rows):
            if site == "east":
                row["image"] = ""
            if site == "south" and number % 3 == 0:
                row["text"] = row["crp"] = row["ldh"] = ""
        table_writer(root / site / "manifest.csv", rows)
    return {"all": good_hospitals, "missing": root}


@pytest.fixture
def run(tmp_path, data, tiny_overrides, monkeypatch):
    """Run a case; return its run directory and the grid that listened."""
    monkeypatch.setattr("fedhealth.runtime.local.InProcessGrid", Tapped)
    monkeypatch.setattr("fedhealth.report.render.render_run_report", lambda folder: "")  # its own tests draw it

    def go(case, name, restart=False):
        monkeypatch.setattr(Tapped, "restart", restart)
        overrides = [*tiny_overrides(data[case["modalities"]]), "training.threads=1", *words_of(case)]
        overrides += [] if case["method"] == "scaffold" else ["training.optimizer.weight_decay=0"]
        folder = RunDir(tmp_path / name)
        launch_run(RunSpec.compose(overrides, folder))
        return folder, Tapped.last

    return go


@pytest.fixture(scope="module", name="allowed")
def allowed_():
    return Allowed()


@pytest.fixture(scope="module")
def cases(allowed):
    return covering(FACTORS, allowed)


@pytest.fixture(scope="module")
def new_options(cases):
    """The cases with an option that no case before them has."""
    seen, found = set(), []
    for case in cases:
        if not seen.issuperset(case.items()):
            found.append(case)
        seen |= set(case.items())
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_option_trains_and_keeps_private_what_is_private(method, new_options, run):
    for case in new_options:
        if case["method"] == method:
            _train_and_look(case, run)


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_every_pair_trains_and_keeps_private_what_is_private(method, cases, new_options, run):
    for case in cases:
        if case["method"] == method and case not in new_options:
            _train_and_look(case, run)


def _train_and_look(case, run):
    folder, grid = run(case, "-".join(case.values()))
    assert sum(kind == TRAIN for kind, *_ in grid.messages) == ROUNDS * len(SITES)
    model = load_file(folder.path / "model.safetensors")
    assert all(np.isfinite(array).all() for array in model.values())
    _the_sites_got_the_same(grid.messages, model)
    for site in SITES:
        _nothing_private_left(case, folder, site, [message for message in grid.messages if message[1] == site])


def _the_sites_got_the_same(messages, model):
    """Shared parameters are equal at all sites, at the end as well, and are what the run leaves."""
    finals = [incoming for kind, _, incoming, _ in messages if kind == EVALUATE]
    assert len(finals) in (len(SITES), 2 * len(SITES))  # of the last round, and of a better one
    for incoming in finals[-len(SITES) :]:
        assert {name for name in incoming if not name.startswith(METHOD)} == set(model)
        assert all(np.array_equal(incoming[name], array) for name, array in model.items())
    assert any(
        not np.array_equal(first[name], model[name])
        for kind, _, first, _ in messages
        if kind == TRAIN
        for name in model
    )


def _nothing_private_left(case, folder, site, messages):
    private = {}
    for kept in (PRIVATE_FILE, PERSONAL_FILE):
        path = folder.site_dir(site) / kept
        private |= {(kept, name): array for name, array in (load_file(path) if path.is_file() else {}).items()}
    shared = messages[-1][2]
    stays = {name for _, name in private if name not in shared and METHOD + name not in shared}
    for *_, answer in messages:
        assert not stays & {name for name, _ in contents(answer)}
    if case["method"] in CONTRIBUTED:
        return
    came = {array.tobytes() for _, _, incoming, _ in messages for array in incoming.values()}
    secrets = {array.tobytes() for array in private.values() if array.size > 1 and len(np.unique(array)) > 1} - came
    for _, _, incoming, answer in messages:
        for _, blob in contents(answer, incoming):
            assert not [secret for secret in secrets if secret in blob]


def contents(answer: RecordDict, incoming=None):
    """Yield the name and bytes of everything in an answer; of an update also the arrays that it leads to."""
    for name, record in answer.items():
        if get_packed_bytes(record) is not None:
            for key, array in unpack_arrays(record).items():
                yield key, array.tobytes()
                if name == UPDATE and incoming:
                    yield key, (incoming[key] + array).tobytes()
        else:
            for key, value in record.items():
                yield key, value if isinstance(value, bytes) else str(value).encode()


@pytest.mark.parametrize("method", ["fedbn", "fedrep", "ditto", "apfl", "mr_mtl", "scaffold", "finetune"])
def test_private_state_survives_a_restart(method, run):
    case = {"method": method, "privacy": "none", "secagg": "off", "towers": "fusion", "modalities": "missing"}
    (calm, _), (shaken, _) = run(case, "calm"), run(case, "shaken", restart=True)
    files = [
        calm.path / "model.safetensors",
        *(calm.site_dir(s) / f for s in SITES for f in (PRIVATE_FILE, PERSONAL_FILE)),
    ]
    for path in files:
        other = shaken.path / path.relative_to(calm.path)
        assert path.is_file() == other.is_file()
        if path.is_file():
            before, after = load_file(path), load_file(other)
            assert before.keys() == after.keys()
            assert all(np.array_equal(array, after[name]) for name, array in before.items())


def test_every_pair_is_covered_or_refused(cases, new_options, allowed):
    assert {case["method"] for case in new_options} == {*METHODS}
    covered = set().union(*(pairs_of(case) for case in cases))
    options = [(factor, option) for factor, several in FACTORS.items() for option in several]
    for i, one in enumerate(options):
        for other in options[i + 1 :]:
            if one[0] != other[0]:
                assert ((one, other) in covered) == allowed(dict([one, other])), (one, other)


@pytest.mark.parametrize("pair", INCOMPATIBILITIES, ids=lambda pair: f"{pair.first} x {pair.second}")
def test_an_impossible_pair_is_a_fault(pair):
    overrides = [*COMMON, *IMPOSSIBLE[pair.first, pair.second]]
    assert pair.message() in [*find_incompatibilities(resolve_config(compose_config(overrides)))]


def test_an_impossible_pair_stops_a_run_before_it_starts():
    with pytest.raises(ConfigError, match="personalization=adapters with a model without LoRA: there is no adapter"):
        validate_config(compose_config([*COMMON, "personalization=adapters"]))


SHARED_NOISE = ["method=fedsgd", "privacy=patient", "privacy.noise=shared", "privacy.sample_rate=0.5"]
IMPOSSIBLE = {
    ("fedhealth stats", "privacy=client"): ["purpose=describe", "privacy=client"],
    ("personalization=adapters", "a model without LoRA"): ["personalization=adapters"],
    ("personalization=ffa_lora", "a model without LoRA"): ["personalization=ffa_lora"],
    ("personalization=fedtower", "a tower the model does not have"): ["personalization=fedtower", "model.image=null"],
    ("personalization=fedrep", "head_steps not below training.local_steps"): [
        "personalization=fedrep",
        "training.local_steps=1",
    ],
    ("personalization.mu=null", "a lead that sends no mu"): ["personalization=fedprox", "personalization.mu=null"],
    ("personalization.mu=null", "private training"): [
        "personalization=fedprox",
        "personalization.mu=null",
        "privacy=patient",
    ],
    ("robust aggregation", "secagg=on"): ["strategy/aggregation=median"],
    ("training.sends=gradient", "more than one local step"): ["method=fedsgd", "training.local_steps=2"],
    ("training.sends=gradient", "a personalization that keeps or adds something"): [
        "method=fedsgd",
        "personalization=fedper",
    ],
    ("training.sends=gradient", "strategy.staleness"): ["method=fedsgd", "strategy.staleness=0.5"],
    ("training.sends=gradient", "privacy=client"): ["method=fedsgd", "privacy=client"],
    ("strategy/server_optimizer=training", "training.sends=update"): ["strategy/server_optimizer=training"],
    ("training/augmentation", "a model without images"): ["training/augmentation=medical", "model.image=null"],
    ("training.micro_batch_size", "private training"): ["training.micro_batch_size=4", "privacy=patient"],
    ("training.compile", "private training"): ["training.compile=true", "privacy=patient"],
    ("training.activation_checkpointing", "training.compile"): [CHECKPOINTING, "training.compile=true"],
    ("training.activation_checkpointing", "privacy.engine=opacus"): [
        CHECKPOINTING,
        "privacy=patient",
        "privacy.engine=opacus",
    ],
    ("training.activation_checkpointing", "private training in bf16"): [
        CHECKPOINTING,
        "privacy=patient",
        "training.precision=bf16",
    ],
    ("strategy.patience", "private training"): ["strategy.patience=2", "privacy=patient"],
    ("strategy.patience", "data.split.validation=0"): ["strategy.patience=2", "data.split.validation=0"],
    ("secagg=on", "fewer sites than its threshold"): ["secagg=on", "data.sites=[north,south]"],
    ("privacy.noise=shared", "secagg=off"): [*SHARED_NOISE, "secagg=off"],
    ("privacy.noise=shared", "training.sends=update"): [*SHARED_NOISE, "training.sends=update"],
    ("privacy.noise=shared", "privacy.sample_rate=null"): ["privacy=patient", "privacy.noise=shared"],
    ("privacy.noise=shared", "fewer than three hospitals"): [*SHARED_NOISE, "data.sites=[north,south]"],
    ("privacy.noise=shared", "privacy=client"): ["privacy=client", "privacy.noise=shared"],
    ("privacy.noise=shared", "strategy.max_update_norm"): [*SHARED_NOISE, "strategy.max_update_norm=1"],
    ("privacy.noise=shared", "secagg.weights=uniform"): [*SHARED_NOISE, "secagg.weights=uniform"],
}
