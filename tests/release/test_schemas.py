"""A file that a command writes names its schema, and the schema that stands beside it allows it."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from fedhealth.cli.lead_study_steps import run_new
from fedhealth.lead.study_draft import load_draft
from fedhealth.utils.json_schema import build_schema, get_schema_name
from release.schemas import FILES
from tests.guide import steps

ROOT = Path(__file__).resolve().parents[2]
LINES = {  # a fault in each file
    "site.yaml": "limits: {epsilno: 1}",
    "ingest.yaml": "select: [{take: 3}]",
    "setup.yaml": "nmae: x",
    "project.yaml": "control_port: many",
    "study.yaml": "open: {training.optimizer.lr: 0.1}",
}


def read_examples(name):
    """Return what guides and templates show of a file."""
    guides = {"ingest.yaml": ("ingest.md", "ingest.yaml"), "project.yaml": ("lead.md", "project.yaml")}
    if name in guides:
        guide, mark = guides[name]
        return [yaml.safe_load(step.yaml) for step in steps(guide) if step.mark == mark and step.yaml]
    return [yaml.safe_load((ROOT / "scripts" / name).read_text("utf-8"))] if name == "setup.yaml" else []


@pytest.mark.parametrize("name", ["ingest.yaml", "project.yaml", "setup.yaml"])
def test_a_schema_allows_what_the_guides_show(name):
    examples = read_examples(name)
    assert examples
    for content in examples:
        jsonschema.validate(content, build_schema(FILES[name]))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | yaml.safe_load(LINES[name]), build_schema(FILES[name]))


def test_a_new_study_names_its_schema_and_fits_it(tmp_path):
    path = tmp_path / "study-2.yaml"
    run_new("pneumonia", ["experiment=demo", "data.sites=[a,b,c]"], path)
    text, schema = path.read_text("utf-8"), json.loads((tmp_path / "study-2.schema.json").read_text("utf-8"))
    assert text.startswith("# yaml-language-server: $schema=study-2.schema.json\n")
    assert schema == build_schema(FILES["study.yaml"])
    content = yaml.safe_load(text)
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | yaml.safe_load(LINES["study.yaml"]), schema)
    assert load_draft(path).name == "pneumonia"


def test_the_page_lists_every_schema():
    page = (ROOT / "docs" / "reference" / "schemas.md").read_text("utf-8")
    assert all(f"| `{name}` |" in page and f"(../schemas/{get_schema_name(name)})" in page for name in FILES)
