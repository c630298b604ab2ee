"""An error of the user's own file is told from one of ours, also where a library raised it."""

import pytest

from fedhealth.errors import ConfigError, DataError
from fedhealth.utils.own_code import OwnCodeError, call_own, explain_own_code, explained_own_code, is_own, name_part
from fedhealth.utils.privacy_text import format_unit

OWN = """
import json

class Mine:
    def add(self, text):
        return json.loads(text)["w"]
"""


def call_as_fedhealth_does(function, *arguments):
    """Run a function below one of fedhealth's, which is what makes it a part."""
    return call_own(function, *arguments, contract="anything")


def catch(call, *arguments):
    with pytest.raises(Exception) as caught:
        call(*arguments)
    return caught.value


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    scope = {"__name__": "mine"}
    exec(compile(OWN, str(file), "exec"), scope)
    return scope["Mine"]()


@pytest.mark.parametrize(("text", "kind"), [("{}", "KeyError"), ("{", "JSONDecodeError")])
def test_an_error_in_an_own_file_names_class_file_and_line(mine, tmp_path, text, kind):
    found = catch(call_as_fedhealth_does, mine.add, text)
    assert isinstance(found, ConfigError)
    assert found.problem.startswith(f"Mine.add ({tmp_path / 'mine.py'}, line 6) raised {kind}")
    assert "\n" not in found.problem


def test_an_error_of_ours_stays_a_bug():
    assert explain_own_code(catch(format_unit, [])) is None  # a list is no key


def test_a_script_that_calls_fedhealth_is_no_part(mine):
    assert explain_own_code(catch(mine.add, "{}")) is None


def test_an_error_of_ours_that_a_part_calls_is_told_by_the_parts_line(mine):
    found = catch(call_as_fedhealth_does, lambda: format_unit([]))
    assert isinstance(found, OwnCodeError)
    assert __file__ in found.problem


def test_other_arguments_are_told_with_the_call(mine, tmp_path):
    with pytest.raises(OwnCodeError) as caught:
        call_own(mine.add, "{}", 1, contract="The call is `add(text)`.")
    assert "too many positional arguments" in caught.value.problem
    assert caught.value.advice == "The call is `add(text)`."


def test_an_error_that_a_part_words_itself_is_kept():
    def refuse():
        raise DataError("no rows", "Add some.")

    with pytest.raises(DataError, match="no rows"), explained_own_code():
        call_as_fedhealth_does(refuse)


def test_a_part_has_a_name_and_if_it_is_own_a_file():
    assert name_part(format_unit) == "fedhealth.utils.privacy_text.format_unit"
    assert name_part(catch) == f"{catch.__module__}.catch ({__file__})"
    assert is_own(catch)
    assert not is_own(format_unit)
