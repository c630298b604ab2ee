"""Implementation of `fedhealth site setup`."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from fedhealth.cli.prompts import print_lines, read_small_file
from fedhealth.errors import ConfigError, NotReadyError, TrustError
from fedhealth.site.policy import DataSource, ProxySettings
from fedhealth.site.run_as_service import describe_restrictions
from fedhealth.site.setup import MachineSetup, find_program
from fedhealth.site.setup_plan import (
    UNIT_NAME,
    SetupAnswers,
    find_machine_faults,
    find_setup_faults,
    load_setup_answers,
)


def run_setup(path: Path | None, kit: Path | None, fingerprint: str | None) -> None:
    """Set the machine up, install the kit if the lead has sent it, and check as the service.

    Raises:
        FedhealthError: an answer is wrong, a step failed, or a check failed.

    """
    console = Console(highlight=False)
    answers = _load_answers(path) if path else _ask_for_answers()
    content = read_small_file(kit) if kit else None
    setup = MachineSetup(answers, find_program(), lambda line: print_lines(console, line))
    setup.prepare_machine()
    if content:
        _install_kit(setup, str(kit), content, fingerprint)
    by = describe_restrictions()
    text = f"under the unit's restrictions ({by})" if by else "without the unit's restrictions: install bubblewrap"
    print_lines(console, f"Checking as {answers.user}, {text}.")
    code = setup.run_check()
    if not content and not setup.home.membership.is_file():
        again = f"{setup.program[0]} site setup {path.resolve() if path else ''}".strip()
        print_lines(
            console,
            "Everything is prepared but the kit, which the lead sends after this step.",
            f"Next: send {setup.home.join_request} to the lead, and tell them its fingerprint (above) by telephone.",
            f"When the kit is here: sudo {again} --kit FILE",
        )
        return
    if code:
        raise NotReadyError("The service is not ready: the table of checks shows why.", "Fix them in this order.")
    print_lines(console, f"Ready. Start it: systemctl enable --now {UNIT_NAME.removesuffix('.service')}")


def _load_answers(path: Path) -> SetupAnswers:
    answers = load_setup_answers(path)
    if faults := find_machine_faults(answers):
        problem = "\n".join(f"{path}: {fault}" for fault in faults)
        raise ConfigError(problem, "Correct the file. Nothing was changed on this machine.")
    return answers


def _install_kit(setup: MachineSetup, name: str, content: bytes, fingerprint: str | None) -> None:
    try:
        setup.install_kit(content, fingerprint)
    except TrustError as fault:
        raise TrustError(f"{name} was not installed: {fault.problem}", fault.advice) from fault


def _ask_for_answers() -> SetupAnswers:
    """Ask in the terminal for what has no default, until the answers are valid."""
    while True:
        try:
            answers = _ask_once()
        except typer.Abort as fault:
            advice = "Give the answers in a file: fedhealth site setup setup.yaml"
            raise ConfigError("Nobody answered.", advice) from fault
        faults = [*find_setup_faults(answers), *find_machine_faults(answers)]
        if not faults:
            return answers
        print_lines(Console(), "", *faults, "Answer again.", "")


def _ask_once() -> SetupAnswers:
    name = typer.prompt("The hospital's name in the consortium (lower case, digits, . _ and -)")
    lead = typer.prompt("host:port of the lead's server")
    data = typer.prompt("The consortium's name for the data (the lead knows it)")
    root = Path(typer.prompt("Folder of the manifest and the images"))
    dataset = typer.prompt("Your own name for these patients (one lifetime privacy budget each)", default=data)
    proxy = typer.prompt("HTTP proxy, as http://host:port, or none", default="none")
    file = (
        "" if proxy == "none" else typer.prompt("File with its user:password, or empty", default="", show_default=False)
    )
    settings = ProxySettings(proxy, Path(file) if file else None)
    return SetupAnswers(name, lead, {data: DataSource(dataset, root)}, settings)
