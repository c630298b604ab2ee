"""What every command has: help for each option, --plain, completion, and a site's installation that says so."""

import shlex
import sys

import pytest
import typer
from typer.testing import CliRunner

from fedhealth.cli import main as program
from fedhealth.cli.help_texts import EXAMPLES

COMMANDS = typer.main.get_command(program.app)


def walk(command, name=()):
    if hasattr(command, "commands"):
        for each, child in command.commands.items():
            yield from walk(child, (*name, each))
    else:
        yield name, command


ALL = dict(walk(COMMANDS))


@pytest.mark.parametrize("name", ALL, ids=" ".join)
def test_every_command_argument_and_option_has_a_help_text(name):
    command = ALL[name]
    assert command.help
    assert [parameter.name for parameter in command.params if not parameter.help] == []


def test_examples_are_of_commands_that_exist():
    assert set(EXAMPLES) == {" ".join(name) for name in ALL}


@pytest.mark.parametrize("name", ALL, ids=" ".join)
def test_the_examples_of_a_command_are_valid_and_use_everything(name):
    command, used = ALL[name], set()
    for example in EXAMPLES[" ".join(name)]:
        assert f"Example: fedhealth {example}" in command.epilog
        words = shlex.split(example)
        assert words[: len(name)] == list(name)
        context = command.make_context("x", words[len(name) :])
        used |= {each for each in context.params if context.get_parameter_source(each).name == "COMMANDLINE"}
    assert {parameter.name for parameter in command.params} == used


def test_help_shows_arguments_and_examples(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    run(monkeypatch, "site", "install", "--help")
    shown = capsys.readouterr().out
    assert "The zip file that the lead sent." in shown
    assert "Example: fedhealth site install charite.zip" in shown


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedhealth", *arguments])
    with pytest.raises(SystemExit) as ended:
        program.main()
    return ended.value.code


def test_plain_output_has_no_colours(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert run(monkeypatch, "verify", "missing.tar.gz", "--key", "k", "--plain") == 2
    assert "\x1b[3" not in capsys.readouterr().err


def test_a_shell_is_offered_its_completion(monkeypatch, capsys):
    monkeypatch.setenv("_FEDHEALTH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "fedhealth site au")
    monkeypatch.setenv("COMP_CWORD", "2")
    run(monkeypatch)
    assert capsys.readouterr().out.split() == ["audit"]


def test_a_sites_installation_says_that_the_leads_side_is_not_there(monkeypatch, capsys):
    def fail(**options):
        raise ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy.orm")

    monkeypatch.setattr(program, "app", fail)
    assert run(monkeypatch, "lead", "serve") == 2
    said = capsys.readouterr().err
    assert "This is a site's installation" in said
    assert "--side lead" in said


def test_a_missing_extra_is_an_error_with_the_command_that_installs_it(monkeypatch, capsys):
    def fail(**options):
        raise ModuleNotFoundError("No module named 'optuna'", name="optuna")

    monkeypatch.setattr(program, "app", fail)
    assert run(monkeypatch, "run", "sweep=search") == 2
    assert "pip install 'fedhealth[sweeps]'" in capsys.readouterr().err


def test_another_missing_module_is_a_bug(monkeypatch):
    def fail(**options):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(program, "app", fail)
    monkeypatch.setattr(sys, "argv", ["fedhealth"])
    with pytest.raises(ModuleNotFoundError):
        program.main()


def test_an_error_of_an_own_part_is_one_line(monkeypatch, capsys):
    def fail(**options):
        raise KeyError("w")  # this file is none of fedhealth's

    monkeypatch.setattr(program, "app", fail)
    assert run(monkeypatch, "run") == 2
    shown = capsys.readouterr().err
    assert "fail (" in shown.replace("<locals>.", "")
    assert "raised KeyError: 'w'" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("words", [["prdict"], ["site", "chek"]])
def test_a_misspelt_command_is_suggested_once(words):
    shown = CliRunner().invoke(program.app, words)
    assert shown.exit_code == 2
    assert shown.output.count("Did you mean") == 1
