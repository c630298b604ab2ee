"""What every command has: help for each option, --plain, completion, and a site's installation that says so."""

import sys

import click
import pytest
import typer

from fedhealth.cli import main as program

COMMANDS = typer.main.get_command(program.app)


def walk(command, name=()):
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        for each, child in command.commands.items():
            yield from walk(child, (*name, each))
    else:
        yield name, command


ALL = dict(walk(COMMANDS))


@pytest.mark.parametrize("name", ALL, ids=" ".join)
def test_every_command_and_every_option_has_a_help_text(name):
    command = ALL[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) or hasattr(parameter, "is_flag"):
            assert parameter.help, parameter.name


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


def test_another_missing_module_is_a_bug(monkeypatch):
    def fail(**options):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(program, "app", fail)
    monkeypatch.setattr(sys, "argv", ["fedhealth"])
    with pytest.raises(ModuleNotFoundError):
        program.main()
