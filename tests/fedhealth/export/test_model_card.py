import pytest
from huggingface_hub import ModelCard

from fedhealth.export.model_card import CARD_FILE, build_card_metadata, build_model_card
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.run_dir import MODEL_DIR
from tests.fedhealth.run_writer import RunWriter


@pytest.fixture(scope="module")
def shown(finished):
    return ModelCard.load(finished[0].path / MODEL_DIR / CARD_FILE)


def test_the_hub_reads_its_head(shown, finished):
    assert shown.data.library_name == "fedhealth"
    assert {"federated-learning", "image", "text", "tabular"} <= set(shown.data.tags)
    scores = {result.metric_type: result.metric_value for result in shown.data.eval_results}
    assert scores["roc_auc"] == pytest.approx(
        load_run_record(finished[0].path).test_result.metrics["auroc"].value, abs=1e-4
    )


def test_it_says_what_a_reader_must_know(shown):
    for message in (
        "## Intended use",
        "Not a medical device",
        "| north | 24 |",
        "No differential privacy: the model may memorise single patients.",
        "the lead saw each hospital's own update",
        "| AUROC |",
        "fedhealth predict THIS_FOLDER",
        "Configuration digest:",
    ):
        assert message in shown.content, message


def test_free_text_stays_text(tmp_path):
    run = RunWriter(tmp_path / "run")
    run.info["name"] = "# *trial* <script>"
    run.evaluation = run.comparison = None
    written = build_model_card(run.write())
    assert "<script>" not in written
    assert "the quality of the model is unknown" in written
    assert "model-index" not in build_card_metadata(load_run_record(run.folder))
