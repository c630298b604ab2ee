"""`fedhealth recommend` as a person types it."""

from typer.testing import CliRunner

from fedhealth.cli.main import app


def test_it_prints_reasons_and_a_command():
    found = CliRunner().invoke(
        app, ["recommend", "--patients", "400", "--sites", "4", "--modalities", "image, text", "--epsilon", "8"]
    )
    assert found.exit_code == 0, found.output
    assert "model/text=ngrams" in found.output
    last = [line for line in found.output.splitlines() if line.startswith("fedhealth run")]
    assert "privacy=patient privacy.epsilon=8 specialized=generic_patient" in last[0]


def test_unknown_modalities_are_refused():
    found = CliRunner().invoke(app, ["recommend", "--patients", "4", "--sites", "4", "--modalities", "sound"])
    assert found.exit_code != 0
