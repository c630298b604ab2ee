"""Implementation of `fedhealth poc`: a consortium on this machine, and a first run in it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rich.console import Console

from fedhealth.cli.prompts import print_lines
from fedhealth.cli.run import compose_run, launch_with_progress
from fedhealth.config.override_allowlist import select_shared_overrides
from fedhealth.config.quoting import quote_value
from fedhealth.consortium.study_text import describe_study
from fedhealth.data.synthetic import write_hospitals
from fedhealth.errors import ConfigError
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.lead.publish_study import find_or_make_study
from fedhealth.runtime.local_consortium import LocalConsortium


def run_poc(folder: Path, sites: int, overrides: list[str], stay: bool) -> None:
    """Set up a consortium below `folder` unless there is one, start it, and run a job in it.

    Raises:
        FedhealthError: a process did not start, or any error that `fedhealth run` raises.

    """
    console = Console(highlight=False)
    hospitals = folder / "hospitals"
    with console.status("Writing synthetic hospitals, keys, certificates and kits"):
        names = write_hospitals(hospitals, sites=sites)
        poc = LocalConsortium(folder, {name: hospitals / name for name in names})
        if not poc.lead.membership.is_file():
            poc.set_up()
        elif {member.site for member in poc.lead.load_members()} != set(names):
            raise ConfigError(f"{folder} holds a consortium of other sites.", "Choose another --folder.")
    console.print(f"Starting the lead's server and {sites} sites; their logs are {folder}/*.log", soft_wrap=True)
    poc.report = _ProgressReport(console)
    with poc.run():
        job = ["experiment=demo", f"data.sites=[{','.join(names)}]", *overrides]
        deployed = [*job, "runtime=deployment", f"runtime.home={quote_value(poc.lead.path.absolute())}"]
        spec = compose_run(deployed, folder / "runs")
        _approve_study(console, poc, spec)
        launch_with_progress(spec)
        _print_next_commands(console, poc, names[0])
        if stay:
            console.print("The consortium keeps running until Ctrl-C.")
            threading.Event().wait()


class _ProgressReport:
    """Prints what is waited for, once for each change, with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self._console, self._begin, self._last = console, time.monotonic(), ""

    def __call__(self, text: str) -> None:
        if text != self._last:
            self._console.print(f"{time.monotonic() - self._begin:5.0f} s  {text}", soft_wrap=True)
            self._last = text


def _approve_study(console: Console, poc: LocalConsortium, spec: RunSpec) -> None:
    """Make the study of the run, show it, and approve it at every hospital: here one person is all of them."""
    signed, _ = find_or_make_study(poc.lead, {spec.run_id: select_shared_overrides(spec.job_overrides)})
    print_lines(console, *describe_study(signed.study))
    with console.status("Evaluating the study on every hospital's data"):
        poc.approve_study(signed, "poc")
    print_lines(console, f"Approved at {', '.join(poc.data)}, as `fedhealth site study approve` does.")


def _print_next_commands(console: Console, poc: LocalConsortium, site: str) -> None:
    """Print commands that the lead and a hospital may try next."""
    lead, home = poc.lead.path, poc.site_home(site).path
    for command in (
        f"fedhealth lead sites --home {lead}",
        f"fedhealth lead runs --home {lead}",
        f"fedhealth site status --home {home}",
        f"fedhealth site budget {home}",
        f"fedhealth site audit show --home {home}",
        f"fedhealth site study show --home {home}",
        f"fedhealth lead study status --home {lead}",
        f"fedhealth run runtime=deployment runtime.home={lead} experiment=demo",
    ):
        console.print(f"  {command}", soft_wrap=True)
    console.print("That last run needs its own study: it prints what each hospital has to approve.")
