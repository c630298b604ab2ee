"""What `fedhealth poc` does: a consortium on this machine, a first run in it, and then it is the user's to try."""

from __future__ import annotations

import threading
from pathlib import Path

from rich.console import Console

from fedhealth.cli.run import run_words
from fedhealth.config.compose import quoted
from fedhealth.data.synthetic import write_hospitals
from fedhealth.errors import ConfigError
from fedhealth.runtime.local_consortium import Poc


def run_poc(folder: Path, sites: int, words: list[str], stay: bool) -> None:
    """Set up a consortium below `folder` unless there is one, start it, run a job in it.

    Raises:
        FedhealthError: a process did not start, or anything that `fedhealth run` raises.

    """
    console = Console(highlight=False)
    hospitals = folder / "hospitals"
    with console.status("Writing synthetic hospitals, keys, certificates and kits"):
        names = write_hospitals(hospitals, sites=sites)
        poc = Poc(folder, {name: hospitals / name for name in names})
        if not poc.lead.membership.is_file():
            poc.set_up()
        elif {member.site for member in poc.lead.members()} != set(names):
            raise ConfigError(f"{folder} holds a consortium of other sites.", "Choose another --folder.")
    console.print(f"Starting the lead's server and {sites} sites; their logs are {folder}/*.log", soft_wrap=True)
    with poc.running():
        job = ["experiment=demo", f"data.sites=[{','.join(names)}]", *words]
        run_words([*job, "runtime=deployment", f"runtime.home={quoted(poc.lead.path.absolute())}"], folder / "runs")
        _tell(console, poc, names[0])
        if stay:
            console.print("All of it goes on until Ctrl-C.")
            threading.Event().wait()


def _tell(console: Console, poc: Poc, site: str) -> None:
    """Show what the two sides of a consortium would look at next."""
    lead, home = poc.lead.path, poc.home(site).path
    for command in (
        f"fedhealth lead sites --home {lead}",
        f"fedhealth lead runs --home {lead}",
        f"fedhealth site status --home {home}",
        f"fedhealth site budget {home}",
        f"fedhealth site audit show --home {home}",
        f"fedhealth run runtime=deployment runtime.home={lead} experiment=demo",
    ):
        console.print(f"  {command}", soft_wrap=True)
