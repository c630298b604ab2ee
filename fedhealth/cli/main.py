"""The entry point: every command, and the one place that turns an error into a message and an exit code.

Commands import what they need when they run, so that `fedhealth --help` does not wait for torch.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedhealth import __version__
from fedhealth.cli import lead, site
from fedhealth.cli.options import Json
from fedhealth.errors import FedhealthError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(site.app, name="site")
app.add_typer(lead.app, name="lead")
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def main() -> None:
    """Run the command line; exit 0 on success, an error's own code on a user's fault, 130 on Ctrl-C."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app(standalone_mode=True)
    except FedhealthError as fault:
        if debug:
            traceback.print_exc()
        console = Console(stderr=True)
        console.print("[bold red]error:[/]", end=" ")
        console.print(fault.problem, markup=False, highlight=False, soft_wrap=True)
        if fault.advice:
            console.print(fault.advice, style="cyan", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(fault.exit_code) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped")
        raise SystemExit(130) from None


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedhealth {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Federated learning for hospitals. Add --debug to any command for the full traceback of an error."""


@app.command()
def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="As `run` takes them, such as privacy=none or privacy.epsilon=3.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where to write the synthetic hospitals and the run.")] = Path(
        "outputs/demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of data and training.")] = 7,
) -> None:
    """Four synthetic hospitals, from files on disk to a report; every patient protected with epsilon 8."""
    from fedhealth.cli.run import run_demo

    run_demo(folder, seed, overrides or [])


@app.command()
def doctor(as_json: Json = False) -> None:
    """Is fedhealth installed as it should be? A check that fails ends with exit code 9."""
    from fedhealth.cli.site_check import run_doctor

    run_doctor(as_json)


@app.command(context_settings=_PASS_THROUGH)
def run(context: typer.Context) -> None:
    """Run a federation; takes Hydra overrides, --multirun, --cfg job, --help (lists every option)."""
    from fedhealth.cli.run import run_hydra

    run_hydra(context.args)


@app.command(context_settings=_PASS_THROUGH | {"help_option_names": ["--help"]})
def audit(
    context: typer.Context,
    level: Annotated[str, typer.Argument(help="quick: look at one step. standard: statistical audits too.")],
) -> None:
    """Is the training as private as it claims? Takes a run's folder, or overrides as `run` does."""
    from fedhealth.cli.audit import run_audit

    run_audit(level, context.args)


if __name__ == "__main__":
    main()
