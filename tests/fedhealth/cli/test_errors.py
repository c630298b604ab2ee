"""Every fault of a user's input as the user meets it: exit code, place, advice, no traceback, nothing half-written."""

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from fedhealth.errors import ConfigError, DataError, FederationError, ModelError

CONFIG, DATA, MODEL = ConfigError.exit_code, DataError.exit_code, ModelError.exit_code


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str
    run: Path

    @property
    def about(self):
        """The run's own account of itself; None where no run was begun."""
        path = self.run / "run.json"
        return json.loads(path.read_text("utf-8")) if path.is_file() else None


@pytest.fixture
def command(hospitals, tiny_overrides, tmp_path, monkeypatch, capfd):
    """`command(*overrides)`: run `fedhealth run` on the tiny hospitals with further overrides."""
    from fedhealth.cli.main import main

    def call(*overrides, base=None):
        folder = tmp_path / "run"
        overrides = [*(tiny_overrides(hospitals) if base is None else base), f"hydra.run.dir='{folder}'", *overrides]
        monkeypatch.setattr(sys, "argv", ["fedhealth", "run", *overrides])
        monkeypatch.setenv("COLUMNS", "200")
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        return Outcome(caught.value.code or 0, out, err, folder)

    return call


@pytest.fixture
def edit(hospitals):
    """`edit(site, line, column, value)`: change one cell of a manifest; the header is line 1."""

    def change(site, line, column, value):
        path = hospitals / site / "manifest.csv"
        table = list(csv.reader(path.read_text("utf-8").splitlines()))
        table[line - 1][table[0].index(column)] = value
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
        return path

    return change


def refused(outcome, code, *messages):
    """Check what holds for every fault, and that each of `messages` is printed."""
    assert outcome.code == code, outcome.err
    assert outcome.err.startswith("error:")
    assert "Traceback" not in outcome.out + outcome.err
    for message in messages:
        assert message in outcome.err
    assert not (outcome.run / "report.html").exists()
    assert not (outcome.run / "model.safetensors").exists()
    if outcome.about is not None:
        assert outcome.about["state"] == "failed"
        assert outcome.about["error"]["problem"] in outcome.err


def test_a_good_run_completes(command):
    outcome = command()
    assert outcome.code == 0, outcome.err
    assert outcome.about["state"] == "completed"
    assert "Report: file://" in outcome.out
    assert outcome.err == ""


@pytest.mark.parametrize(
    ("override", "messages"),
    [
        ("training.bach_size=4", ["There is no configuration key", "Did you mean training.batch_size?"]),
        ("training=sdg", ["There is no option 'sdg' in group 'training'", "Did you mean training=sgd?"]),
        ("modle=small", ["There is no configuration key 'modle'", "Did you mean model?"]),
        ("+bogus=1", ["bogus: there is no such configuration key"]),
        ("training.learning_rate=0.1", ["There is no configuration key", "Did you mean training.optimizer.lr?"]),
        ("data.sites=[North,south,east]", ["'North' is no site name (lower case letters"]),
        ("training.batch_size=0", ["training.batch_size: must be at least 1, is 0."]),
        ("training.batch_size=few", ["training.batch_size", "few"]),
        ("nonsense(", ["nonsense("]),
        ("+model.image.wieghts=x", ["model.image.wieghts", "no such parameter"]),
    ],
)
def test_a_fault_of_the_configuration(command, override, messages):
    outcome = command(override)
    refused(outcome, CONFIG, *messages)
    assert outcome.about is None  # the corrected command may name the same directory


def test_a_refused_configuration_does_not_occupy_the_directory(command):
    assert command("training.batch_size=0").code == CONFIG
    assert command("tracking=mlflow", "tracking.uri=~nobody-here/x").code == CONFIG
    outcome = command("strategy.rounds=1")
    assert outcome.code == 0, outcome.err


def test_a_file_in_a_windows_encoding_is_named_with_its_line(command, hospitals):
    path = hospitals / "conf" / "data" / "ward.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes("defaults: [demo, _self_]\n# Größe\ncache: /tmp/x\n".encode("cp1252"))
    place = f"{path} is not in UTF-8: line 2, '# Größe'"
    refused(command("data=ward", "--config-dir", str(hospitals / "conf")), CONFIG, place, "Save it as UTF-8")


def test_a_value_that_must_be_given(command):
    refused(command(base=[]), CONFIG, "The configuration needs a value for data.root.", "Add data.root=...")


def test_a_folder_that_holds_a_run(command):
    assert command().code == 0
    again = command()
    assert again.code == CONFIG
    assert "already contains a run" in again.err
    assert again.out == ""  # not the lines of the run that is there
    assert again.about["state"] == "completed"


def test_no_such_file(command, tmp_path):
    refused(command(f"data.root={tmp_path}/gone"), DATA, "gone/north/manifest.csv: the manifest does not exist")
    corrected = command("strategy.rounds=1")  # in the same directory
    assert corrected.code == 0, corrected.err
    assert corrected.about["state"] == "completed"


def test_a_missing_column(command, edit):
    path = edit("south", 1, "image", "imgae")
    refused(command(), DATA, str(path), "missing column 'image' (did you mean 'imgae'?)", "data.columns")


def test_a_label_outside_the_task(command, edit):
    path = edit("south", 5, "label", "3")
    refused(command(), DATA, f"{path}: column 'label': invalid label in line 5: '3'", "Allowed: stable, severe")


def test_a_patient_in_two_splits(command, hospitals):
    path = hospitals / "east" / "manifest.csv"
    head, *rows = path.read_text("utf-8").splitlines()
    rows = [f"{row},{'test' if number % 3 == 0 else 'train'}" for number, row in enumerate(rows)]
    rows[1] = rows[1].replace("east-1,", "east-0,")
    path.write_text("\n".join([f"{head},split", *rows]) + "\n", "utf-8")
    for site in ("north", "south"):
        other = hospitals / site / "manifest.csv"
        head, *rows = other.read_text("utf-8").splitlines()
        other.write_text("\n".join([f"{head},split", *(f"{row}," for row in rows)]) + "\n", "utf-8")
    refused(command("data.columns.split=split"), DATA, str(path), "1 patient(s) in more than one split, line 2, 3")


def test_an_unreadable_image(command, hospitals):
    image = hospitals / "north" / "images" / "4.png"
    image.write_bytes(image.read_bytes()[:60])
    refused(command(), DATA, "1 of 24 image files are unreadable", str(image), "data.max_rejected (now 0.025)")


def test_an_unreadable_image_that_may_be_left_out(command, hospitals):
    (hospitals / "north" / "images" / "4.png").write_bytes(b"")
    outcome = command("data.max_rejected=0.1")
    assert outcome.code == 0, outcome.err
    assert "1 unreadable image file(s) were rejected" in outcome.out


def test_an_empty_site(command, hospitals, table_writer):
    path = table_writer(hospitals / "south" / "manifest.csv", [])
    refused(command(), DATA, f"{path}: site 'south' has no rows.", "data.sites")


@pytest.mark.parametrize("cell", ["NaN", "inf", "high"])
def test_no_number_in_a_tabular_column(command, edit, cell):
    path = edit("north", 7, "crp", cell)
    refused(command(), DATA, f"{path}: column 'crp', line 7: '{cell}': not a ", "leave a cell empty")


def test_a_required_column_that_is_empty(command, hospitals):
    path = hospitals / "north" / "manifest.csv"
    refused(
        command("data.tabular.ldh.required=true"),
        DATA,
        f"{path}: column 'ldh' is required but empty in line 2, 7, 12, 17, 22.",
        "required: false",
    )


def test_no_labelled_example(command, hospitals):
    path = hospitals / "north" / "manifest.csv"
    path.write_text(path.read_text("utf-8").replace(",0,", ",,").replace(",1,", ",,"), "utf-8")
    refused(command(), DATA, f"{path}: site 'north' has no labelled training row.")


def test_a_failed_run_says_so_in_its_folder(command, edit):
    edit("south", 5, "label", "3")
    about = command().about
    assert about["state"] == "failed"
    assert about["error"]["kind"] == "DataError"
    assert "line 5" in about["error"]["problem"]
    assert about["error"]["advice"]


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["model.image.weights=gone.safetensors"], ["model.image.weights", "gone.safetensors"]),
        (["model.image.architecture=resnet81"], ["torchvision has no 'resnet81'"]),
        (["model.text.pretrained=./no-such-encoder"], ["model.text.pretrained", "no-such-encoder"]),
        (["model.text.heads=3"], ["hidden=16 is not a multiple of heads=3"]),
    ],
)
def test_a_model_that_cannot_be_built(command, overrides, messages):
    refused(command(*overrides), MODEL, *messages)


def test_training_that_diverges_at_every_site(command):
    outcome = command("training.optimizer.lr=1e30")
    refused(outcome, FederationError.exit_code)
    for site in ("north", "south", "east"):  # the cause that a hospital would keep to itself
        assert outcome.out.count(f"{site}: Training diverged: the mean loss of the round") == 1  # no second attempt
    assert "Lower training.optimizer.lr" in outcome.out


def test_an_extreme_number_is_named_by_its_column(command, edit):
    edit("north", 4, "crp", "1000050")  # 20,000 scales from the center
    outcome = command()
    assert outcome.code == 0, outcome.err
    assert "Column 'crp': 1 value(s) are over 100 scales from its center" in " ".join(outcome.out.split())


def test_an_impossible_number_is_refused_before_training(command, edit):
    edit("north", 4, "crp", "1e30")
    refused(command(), DataError.exit_code, "column 'crp', line 4", "over a million scales from the center")


def test_a_loss_that_is_too_large_to_add_up_is_divergence(command, monkeypatch):
    """It is finite, so only its sum over the rows has no place in 64 bits."""
    from fedhealth.training import trainer

    compute = trainer.compute_row_losses
    monkeypatch.setattr(trainer, "compute_row_losses", lambda *parts: compute(*parts) * 1e30)
    outcome = command("training.optimizer.lr=1e-38")
    refused(outcome, FederationError.exit_code)
    assert "north: Training diverged" in outcome.out


def test_a_one_class_site_and_a_constant_column_are_warnings(command, edit):
    for line in range(2, 26):
        edit("east", line, "label", "1")
        edit("east", line, "crp", "50")
    outcome = command()
    assert outcome.code == 0, outcome.err
    east = outcome.out.split("east: ")[1]
    assert "Every labelled training row is of one class (severe)." in east
    assert "Column 'crp' has the same value in every row." in east
    assert outcome.about["state"] == "completed"


def test_brackets_in_names_are_shown_as_they_are(command, hospitals):
    for site in ("north", "south", "east"):
        path = hospitals / site / "manifest.csv"
        head, *rows = path.read_text("utf-8").splitlines()
        head, rows = f"{head},[/crp] [mg/l]", [f"{row},7" for row in rows]
        path.write_text("\n".join([head, *rows]) + "\n", "utf-8")
    conf = hospitals / "conf" / "data"
    conf.mkdir(parents=True)
    text = "defaults: [demo, _self_]\ntabular:\n  '[/crp] [mg/l]': {}\n"
    (conf / "brackets.yaml").write_text(text, "utf-8")
    outcome = command("data=brackets", "--config-dir", str(hospitals / "conf"))
    assert outcome.code == 0, outcome.err
    assert "Column '[/crp] [mg/l]' has the same value" in outcome.out


def test_debug_shows_the_traceback(command):
    outcome = command("--debug", "training.batch_size=0")
    assert outcome.code == CONFIG
    assert "Traceback" in outcome.err
    assert "training.batch_size: must be at least 1" in outcome.err


def test_a_bug_keeps_its_traceback(command, monkeypatch):
    from fedhealth.experiment import launch

    monkeypatch.setattr(launch, "_prepare_sites", None)  # the call fails in our own file
    with pytest.raises(TypeError):
        command()


def test_the_words_of_hydra_work(command):
    outcome = command("--cfg", "job")
    assert outcome.code == 0
    assert "batch_size: 8" in outcome.out
    outcome = command("--help")
    assert outcome.code == 0
    assert "== Configuration groups" in outcome.out


def python(code):
    """Run code in a fresh interpreter; return its standard output."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_help_waits_for_no_heavy_import():
    code = """
import sys
sys.argv = ["fedhealth", "--help"]
from fedhealth.cli.main import main
try:
    main()
except SystemExit as done:
    print("code", done.code)
print("heavy", sorted({"torch", "flwr", "hydra", "pandas", "transformers"} & set(sys.modules)))
"""
    out = python(code)
    assert "heavy []" in out
    assert "code 0" in out
    assert "demo" in out
