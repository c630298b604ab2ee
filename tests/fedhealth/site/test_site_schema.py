"""The schema beside site.yaml, for editors: it allows what is written there and marks what is refused."""

import json

import jsonschema
import pytest
import yaml

from fedhealth.site.home import SiteHome
from fedhealth.site.init import init_site

SCHEMA_FILE = "site.schema.json"


@pytest.fixture(name="files")
def files_(tmp_path):
    home = SiteHome(tmp_path / "home")
    init_site(home, "north", "lead.example:9443")
    schema = json.loads(home.policy.with_name(SCHEMA_FILE).read_text("utf-8"))
    return home.policy.read_text("utf-8"), schema


def test_the_new_file_names_its_schema_and_fits_it(files):
    text, schema = files
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    jsonschema.validate(yaml.safe_load(text), schema)


@pytest.mark.parametrize("line", ["bogus: 1", "limits: {epsilno: 1}", "limits: {epsilon: much}", "name: 1"])
def test_an_editor_marks_what_is_refused(files, line):
    text, schema = files
    content = yaml.safe_load(text) | yaml.safe_load(line)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_the_schema_is_written_again_with_a_new_release(files, tmp_path):
    home = SiteHome(tmp_path / "home")
    home.policy.with_name(SCHEMA_FILE).write_text("{}", "utf-8")
    init_site(home, "north", "lead.example:9443")
    assert json.loads(home.policy.with_name(SCHEMA_FILE).read_text("utf-8")) == files[1]
