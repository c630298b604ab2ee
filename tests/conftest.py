"""Fixtures shared by all tests: tiny hospitals on disk, the overrides of a short federation, a cache."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: tests share their cores, and sums stay in one order
os.environ["MPLBACKEND"] = "Agg"

import csv
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhealth.runs.run_dir import RunDir
from tests.composition_cache import keep_compositions
from tests.data_sets import DATA_SETS
from tests.savings import (
    draw_charts,
    fork_from_one_server,
    leave_charts_undrawn,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_sessionfinish,
)
from tests.seeded_noise import seed_noise

__all__ = ["pytest_collection_finish", "pytest_collection_modifyitems", "pytest_configure", "pytest_sessionfinish"]

SITES = ("north", "south", "east")
COLUMNS = ("patient_id", "study_id", "image", "text", "label", "crp", "ldh")
Row = dict[str, str]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say in the last line of `make faults` what became of it, also when nothing failed."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("FEDHEALTH_FAULTS") == "full" and reporter is not None:
        passed, *others = (len(reporter.stats.get(kind, ())) for kind in ("passed", "failed", "error"))
        reporter.write_line(f"{passed} passed, {sum(others)} failed")


def patient_rows(site: str, patients: int, seed: int, images: Path | None = None) -> list[Row]:
    """Return one study per patient; image, note and both labs tell the label, each with some noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(patients):
        label = number % 2
        name = f"images/{number}.png"
        if images is not None:
            grey = np.clip(generator.normal(90 + 70 * label, 25, (16, 16)), 0, 255).astype(np.uint8)
            Image.fromarray(grey).save(images / f"{number}.png")
        note = "worse today, oxygen given" if label else "better today, walks about"
        rows.append(
            {
                "patient_id": f"{site}-{number}",
                "study_id": "1",
                "image": name if images is not None else "",
                "text": note if generator.random() < 0.9 else "seen on the ward",
                "label": str(label),
                "crp": f"{generator.normal(30 + 60 * label, 20):.1f}",
                "ldh": f"{generator.normal(250 + 100 * label, 60):.1f}" if number % 5 else "",
            }
        )
    return rows


def write_table(path: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> Path:
    """Write a manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_site(root: Path, site: str, patients: int = 24, seed: int = 0) -> list[Row]:
    """Write one hospital below `root`; return its rows."""
    images = root / site / "images"
    images.mkdir(parents=True, exist_ok=True)
    rows = patient_rows(site, patients, seed, images)
    write_table(root / site / "manifest.csv", rows)
    return rows


@pytest.fixture(scope="session", autouse=True)
def cache_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or fills the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDHEALTH_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def cached_compositions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests compose the same configurations thousands of times."""
    with keep_compositions(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(scope="session", autouse=True)
def unsynced_files() -> Iterator[None]:
    """A killed process loses nothing that it wrote, and no test cuts the power: the disk only takes time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def savings() -> Iterator[None]:
    """What no test shows is done once, or not at all."""
    with fork_from_one_server(), leave_charts_undrawn():
        yield


@pytest.fixture(scope="module")
def drawn_charts() -> Iterator[None]:
    """A module looks at the charts of its reports."""
    with draw_charts():
        yield


@pytest.fixture(autouse=True)
def seeded_noise(request: pytest.FixtureRequest) -> Iterator[None]:
    """Noise is the same in every run of a test, so that a bound on it holds always or never."""
    with seed_noise(f"{request.node.parent.nodeid}::{request.node.name}"):  # not the group that pytest-xdist adds
        yield


@pytest.fixture(autouse=True)
def warnings_not_captured() -> Iterator[None]:
    """A run sends warnings to the log; the next test wants them as errors again."""
    yield
    logging.captureWarnings(False)


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    """Three hospitals of 24 patients each, to be spoilt by the test."""
    root = tmp_path / "hospitals"
    for seed, site in enumerate(SITES):
        write_site(root, site, seed=seed)
    return root


@pytest.fixture(scope="session")
def good_hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same three hospitals, to be read only."""
    root = tmp_path_factory.mktemp("data") / "hospitals"
    for seed, site in enumerate(SITES):
        write_site(root, site, seed=seed)
    return root


@pytest.fixture(scope="session")
def site_writer() -> Callable[..., list[Row]]:
    """`write_site(root, site, patients=24, seed=0)`: one hospital's files; returns its rows."""
    return write_site


@pytest.fixture(scope="session")
def table_writer() -> Callable[..., Path]:
    """`write_table(path, rows, columns)`: a manifest."""
    return write_table


def tiny_model(root: Path, sites: Sequence[str]) -> list[str]:
    """Return the overrides of a federation over the hospitals below `root` with the smallest possible model."""
    return [
        f"data.root='{root}'",
        f"data.sites=[{','.join(sites)}]",
        "data.image.size=16",
        *(f"~data.tabular.{name}" for name in ("age", "sex", "lymphocytes", "spo2")),
        "model.dim=8",
        "model/text=words",
        "model.text.hidden=16",
        "model.text.buckets=64",
        "model.text.max_length=16",
        "training.batch_size=8",
        "evaluation.bins=64",
        "evaluation.bootstrap=20",
        "evaluation.audit=false",
        "baselines.local_only=false",
        "baselines.centralised=false",
    ]


@pytest.fixture(autouse=True)
def audit_before_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the audit before every private run, which takes seconds; a module that needs it has its own fixture."""
    for trainer in ("dpsgd_trainer", "client_dp_trainer"):
        monkeypatch.setattr(f"fedhealth.training.{trainer}.list_audit_failures", lambda *_: [])


_SHORT = ("training.local_steps=2", "strategy.rounds=2", "strategy.select=last", "secagg=off")


@pytest.fixture(scope="session")
def tiny_overrides() -> Callable[[Path], list[str]]:
    """The overrides of a federation over the hospitals below a folder; it takes about a second."""
    return lambda root: [*tiny_model(root, SITES), *_SHORT]


def begun(folder: Path, name: str = "abc123") -> RunDir:
    """Return a run of three rounds, called chest, in whose first round north has answered and south has not."""
    run = RunDir(folder)
    run.create(run=name, name="chest")
    run.append_event("strategy", parts=[], sites=["north", "south"])
    run.append_event("started", rounds=3, completed=0)
    run.append_event("round_started", round=1, sites=["north", "south"])
    run.append_event("site_answered", round=1, site="north", seconds=1.0, sent=100, received=70)
    return run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the checkout; FEDHEALTH_TEST_DATA names another place."""
    if not DATA_SETS.is_dir():
        pytest.skip(f"needs the real data sets in {DATA_SETS} (FEDHEALTH_TEST_DATA names another folder)")
    return DATA_SETS


@pytest.fixture(scope="session")
def encoder_saver() -> Callable[..., Path]:
    """`save_encoder(folder, kind="bert", dtype="float32")`: a tiny Hugging Face encoder with its tokenizer."""

    def save(folder: Path, kind: str = "bert", dtype: str = "float32") -> Path:
        import torch
        import transformers
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        transformers.utils.logging.disable_progress_bar()
        pad = 1 if kind == "roberta" else 0
        words = ["[UNK]", "better", "worse", "today", "oxygen", "given"]
        words.insert(pad, "[PAD]")
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
        fast.save_pretrained(folder)
        sizes = {
            "vocab_size": len(words),
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 130,
            "pad_token_id": pad,
        }
        torch.manual_seed(0)
        config, network = {
            "bert": (transformers.BertConfig, transformers.BertModel),
            "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
        }[kind]
        network(config(**sizes)).to(getattr(torch, dtype)).save_pretrained(folder)
        return folder

    return save
