"""An error of the user's own file is told from one of ours, also where a library raised it."""

import pytest

from fedhealth.errors import ConfigError
from fedhealth.utils.own_code import explain_own_code
from fedhealth.utils.privacy_text import format_unit

OWN = """
import json

class Mine:
    def add(self, text):
        return json.loads(text)["w"]
"""


def catch(call, *arguments):
    with pytest.raises(Exception) as caught:
        call(*arguments)
    return caught.value


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    scope = {}
    exec(compile(OWN, str(file), "exec"), scope)
    return scope["Mine"]()


@pytest.mark.parametrize(("text", "kind"), [("{}", "KeyError"), ("{", "JSONDecodeError")])
def test_an_error_in_an_own_file_names_class_file_and_line(mine, tmp_path, text, kind):
    found = explain_own_code(catch(mine.add, text))
    assert isinstance(found, ConfigError)
    assert found.problem.startswith(f"Mine.add ({tmp_path / 'mine.py'}, line 6) raised {kind}")
    assert "\n" not in found.problem


def test_an_error_of_ours_stays_a_bug():
    assert explain_own_code(catch(format_unit, [])) is None  # a list is no key
