"""The entry point: all commands, and the one place that turns errors into messages and exit codes.

Commands import their dependencies when they run, so that `fedhealth --help` does not import torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedhealth.cli import lead, site
from fedhealth.cli.help_texts import complete_help
from fedhealth.cli.options import Json
from fedhealth.errors import ConfigError, FedhealthError, as_storage_error
from fedhealth.utils.extras import EXTRAS, build_missing_error
from fedhealth.utils.import_modules import pause_collection
from fedhealth.utils.own_code import explain_own_code
from fedhealth.utils.readable_text import escape_invisible
from fedhealth.version import __version__

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, suggest_commands=False)  # click does
app.add_typer(site.app, name="site")
app.add_typer(lead.app, name="lead")
_LEAD_MODULES = {"alembic", "sqlalchemy", "uv"}  # locks/site.lock leaves them out
_SIDE_ADVICE = "Install with --side lead (servers, rehearsals) or --side site-sources (ingest from servers)."
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def main() -> None:
    """Run the command line; exit with 0 on success, with the error's code on a user error, with 130 on Ctrl-C."""
    debug, plain = (_take_flag(flag) for flag in ("--debug", "--plain"))
    if plain:
        os.environ |= {"NO_COLOR": "1", "TERM": "dumb"}
    try:
        app(standalone_mode=True, prog_name="fedhealth")
    except (FedhealthError, OSError) as fault:
        error = fault if isinstance(fault, FedhealthError) else as_storage_error(fault)
        if error is None:
            raise
        if debug:
            traceback.print_exc()
        _print_error(error)
        raise SystemExit(error.exit_code) from None
    except ModuleNotFoundError as fault:
        if (error := _explain_missing_module(fault.name or "")) is None:
            raise
        _print_error(error)
        raise SystemExit(ConfigError.exit_code) from None
    except Exception as fault:
        if (error := explain_own_code(fault)) is None:
            raise
        if debug:
            traceback.print_exc()
        _print_error(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped")
        raise SystemExit(130) from None


def _explain_missing_module(name: str) -> ConfigError | None:
    """Return the error for a module that this installation leaves out; None for any other module."""
    module = name.partition(".")[0]
    if module in _LEAD_MODULES:
        return ConfigError(f"This is a site's installation: {module} is not part of it.", _SIDE_ADVICE)
    return build_missing_error(module) if module in EXTRAS else None


def _take_flag(flag: str) -> bool:
    """Return whether a flag that every command takes was given, and remove it from the arguments."""
    is_given = flag in sys.argv
    if is_given:
        sys.argv.remove(flag)
    return is_given


def _print_error(fault: FedhealthError) -> None:
    console = Console(stderr=True)
    console.print("[bold red]error:[/]", end=" ")
    console.print(escape_invisible(fault.problem), markup=False, highlight=False, soft_wrap=True)
    if fault.advice:
        console.print(escape_invisible(fault.advice), style="cyan", markup=False, highlight=False, soft_wrap=True)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedhealth {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Federated learning for hospitals.

    Every command takes --debug (the full traceback of an error) and --plain (no colours, no moving lines).
    """


@app.command()
def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides, as for `run`, such as privacy=none or privacy.epsilon=3.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where to write the synthetic hospitals and the run.")] = Path(
        "outputs/demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of data and training.")] = 7,
) -> None:
    """Run a federation of four synthetic hospitals, with a report; epsilon 8 at delta 1e-6 for each patient."""
    with pause_collection():
        from fedhealth.cli.run import run_demo

    run_demo(folder, seed, overrides or [])


@app.command(context_settings=_PASS_THROUGH | {"help_option_names": ["--help"]})
def poc(
    context: typer.Context,
    folder: Annotated[Path, typer.Option(help="Folder of the consortium.")] = Path("outputs/poc"),
    sites: Annotated[int, typer.Option(min=3, max=32, help="How many hospitals.")] = 4,
    stay: Annotated[bool, typer.Option(help="Keep running after the first run, to try the other commands.")] = True,
) -> None:
    """Try a whole consortium on this machine: real processes, TLS, demo data; takes overrides as `run` does."""
    from fedhealth.cli.poc import run_poc

    run_poc(folder, sites, context.args, stay)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check the installation; if a check fails, the exit code is 9."""
    from fedhealth.cli.site_check import run_doctor

    run_doctor(as_json)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The archive of a release; its signature FILE.minisig lies beside it.")],
    key: Annotated[Path, typer.Option(help="fedhealth.pub: the public key that you compared with the lead.")],
) -> None:
    """Verify the signature of a release before an upgrade; `minisign -Vm FILE -p fedhealth.pub` does the same."""
    from fedhealth.cli.verify import run_verify

    run_verify(file, key)


_data = typer.Typer(no_args_is_help=True, help="Commands for descriptions of data.")
app.add_typer(_data, name="data")


@_data.callback()
def _data_root() -> None:
    """Commands for descriptions of data."""


@_data.command()
def propose(
    manifest: Annotated[Path, typer.Argument(help="A table of patients, with labels and variables.")],
    out: Annotated[Path, typer.Option(help="The file to write; its name is the data's name.")] = Path("data.yaml"),
) -> None:
    """Write a commented description of a manifest, for a person to edit; nothing computed from patients is in it."""
    from fedhealth.cli.propose import propose_data

    propose_data(manifest, out)


@app.command()
def recommend(
    patients: Annotated[int, typer.Option(help="Patients of the smallest hospital, for training.")],
    sites: Annotated[int, typer.Option(help="Number of hospitals.")],
    modalities: Annotated[str, typer.Option(help="Of image, text and tabular, separated by commas.")],
    epsilon: Annotated[float | None, typer.Option(help="Privacy of each patient; default: none.")] = None,
    text_encoder: Annotated[str, typer.Option(help="Folder of a Hugging Face text encoder.")] = "",
    image_encoder: Annotated[str, typer.Option(help="Folder of a Hugging Face vision encoder.")] = "",
    image_weights: Annotated[str, typer.Option(help="Torchvision's weights of a MobileNetV2.")] = "",
) -> None:
    """Recommend settings for a study, each with its reason; nothing is read or trained."""
    from fedhealth.cli.recommend import run_recommend
    from fedhealth.config.recommend import StudyFacts

    kinds = frozenset(name.strip() for name in modalities.split(",") if name.strip())
    run_recommend(StudyFacts(patients, sites, kinds, epsilon, text_encoder, image_encoder, image_weights))


@app.command(context_settings=_PASS_THROUGH)
def run(context: typer.Context) -> None:
    """Run a federation; takes Hydra overrides, --multirun, --cfg job, --help (lists every option)."""
    with pause_collection():
        from fedhealth.cli.run import run_hydra

    run_hydra(context.args)


@app.command(context_settings=_PASS_THROUGH)
def stats(context: typer.Context) -> None:
    """Compute summed statistics of the hospitals' patients, without training; takes overrides as `run` does."""
    with pause_collection():
        from fedhealth.cli.run import run_hydra

    run_hydra([*context.args, "purpose=describe"])


@app.command()
def watch(folder: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Follow a run from another terminal until it ends."""
    from fedhealth.cli.watch import run_watch

    run_watch(folder)


@app.command()
def status(
    run: Annotated[str, typer.Argument(help="A run directory, or the id of a run in the hospitals.")],
    as_json: Json = False,
) -> None:
    """Show the status of a run, which hospitals it waits for, and what to do; the exit code is the state (README)."""
    from fedhealth.cli.status import run_status

    run_status(run, as_json)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Run directories, or the folder of a sweep.")],
    to: Annotated[Path | None, typer.Option(help="Folder of the page and the CSV file.")] = None,
    as_json: Json = False,
) -> None:
    """Compare several runs in one table: quality, privacy, traffic, and the Pareto front."""
    from fedhealth.cli.compare import run_compare

    run_compare(folders, to, as_json)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="An exported model: the folder `model` of a run.")],
    image: Annotated[list[Path] | None, typer.Option(help="A DICOM, JPEG, PNG or TIFF file; may be repeated.")] = None,
    note: Annotated[str | None, typer.Option(help="The note's text, or @FILE.")] = None,
    value: Annotated[list[str] | None, typer.Option(help="A clinical variable, such as age=67.")] = None,
    table: Annotated[Path | None, typer.Option(help="A manifest with many studies, instead of one study.")] = None,
    to: Annotated[Path | None, typer.Option(help="File for the scores of the table; default: the terminal.")] = None,
    own: Annotated[Path | None, typer.Option(help="personal.safetensors of a hospital, to use its own model.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="calibration.safetensors of the hospital where the studies are from.")
    ] = None,
    risk: Annotated[
        float,
        typer.Option(help="Largest share of studies with a class that are called negative, and the other way round."),
    ] = 0.1,
    config_dir: Annotated[
        Path | None, typer.Option(help="Folder of configuration files, as for training, of a model with an own part.")
    ] = None,
) -> None:
    """Score new studies with an exported model; with a calibration, decide or abstain as well."""
    from fedhealth.cli.predict import Scoring, run_predict

    run_predict(Scoring(model, own, calibration, risk, config_dir), image or [], note, value or [], table, to)


@app.command(context_settings=_PASS_THROUGH | {"help_option_names": ["--help"]})
def audit(
    context: typer.Context,
    level: Annotated[str, typer.Argument(help="quick: check one step. standard: also run statistical audits.")],
) -> None:
    """Audit the privacy of training. Takes a run's folder, or overrides as `run` does."""
    from fedhealth.cli.audit import run_audit

    run_audit(level, context.args)


complete_help(app)

if __name__ == "__main__":
    main()
