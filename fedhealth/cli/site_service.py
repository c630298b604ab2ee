"""Implementation of `fedhealth site setup`."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from fedhealth.cli.prompts import print_lines, read_small_file
from fedhealth.errors import ConfigError, NotReadyError
from fedhealth.site.policy import DataSource, ProxySettings
from fedhealth.site.run_as_service import describe_restrictions
from fedhealth.site.setup import MachineSetup, find_program
from fedhealth.site.setup_plan import UNIT_NAME, SetupAnswers, find_setup_faults, load_setup_answers


def run_setup(path: Path | None, kit: Path | None, fingerprint: str | None) -> None:
    """Set the machine up, install the kit if the lead has sent it, and check as the service.

    Raises:
        FedhealthError: an answer is wrong, a step failed, or a check failed.

    """
    console = Console(highlight=False)
    answers = load_setup_answers(path) if path else _ask_for_answers()
    content = read_small_file(kit) if kit else None
    setup = MachineSetup(answers, find_program(), lambda line: print_lines(console, line))
    setup.prepare_machine()
    if content:
        setup.install_kit(content, fingerprint)
    by = describe_restrictions()
    text = f"under the unit's restrictions ({by})" if by else "without the unit's restrictions: install bubblewrap"
    print_lines(console, f"Checking as {answers.user}, {text}.")
    code = setup.run_check()
    if not content and not setup.home.membership.is_file():
        print_lines(
            console,
            f"Next: send {setup.home.join_request} to the lead, with its fingerprint by telephone (above).",
            "When the kit is here: the same command with --kit FILE.",
        )
        return
    if code:
        raise NotReadyError("The service is not ready: the table of checks shows why.", "Fix them in this order.")
    print_lines(console, f"Ready. Start it: systemctl enable --now {UNIT_NAME.removesuffix('.service')}")


def _ask_for_answers() -> SetupAnswers:
    """Ask in the terminal for what has no default."""
    try:
        name = typer.prompt("The hospital's name in the consortium (lower case, digits, . _ and -)")
        lead = typer.prompt("host:port of the lead's server")
        data = typer.prompt("The consortium's name for the data (the lead knows it)")
        root = Path(typer.prompt("Folder of the manifest and the images"))
        dataset = typer.prompt("Your own name for these patients (one lifetime privacy budget each)", default=data)
        proxy = typer.prompt("HTTP proxy, as http://host:port, or none", default="none")
        file = typer.prompt("File with the proxy's user:password, or empty", default="", show_default=False)
    except typer.Abort as fault:
        raise ConfigError("Nobody answered.", "Give the answers in a file: fedhealth site setup setup.yaml") from fault
    source = DataSource(dataset, root)
    answers = SetupAnswers(name, lead, {data: source}, ProxySettings(proxy, Path(file) if file else None))
    if faults := find_setup_faults(answers):
        raise ConfigError("\n".join(faults), "Start again.")
    return answers
