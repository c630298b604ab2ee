"""Run a command of the site exactly as the service would run it: its user, its variables, its restrictions.

Where systemd runs, systemd itself applies the unit. Elsewhere bubblewrap makes the same view of the disks: everything
read-only, an own /tmp, and one folder that can be written to.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fedhealth.site.setup_plan import read_unit_environment, read_unit_settings

SYSTEMD_RUNS = Path("/run/systemd/system")
_NOT_OF_A_COMMAND = {  # about starting the service again, or given in another way
    "ExecStart", "Environment", "Restart", "RestartSec", "RestartPreventExitStatus", "KillMode",
}  # fmt: skip
_PATH = "/usr/bin:/bin"


def describe_restrictions() -> str:
    """Return by what the unit's restrictions are applied on this machine; empty if by nothing."""
    if SYSTEMD_RUNS.is_dir() and shutil.which("systemd-run"):
        return "systemd"
    return "bubblewrap" if shutil.which("bwrap") else ""


def run_as_service(unit: str, command: Sequence[str], restricted: bool = True) -> int:
    """Run a command as the unit's user, connected to this terminal; return its exit code.

    Args:
        unit: text of the systemd unit.
        command: absolute path of a program, and its arguments.
        restricted: whether the unit's restrictions apply, too; else only its user and variables.

    """
    settings = dict(read_unit_settings(unit))
    variables = {"PATH": _PATH, "LANG": os.environ.get("LANG", "C.UTF-8"), **read_unit_environment(unit)}
    by = describe_restrictions() if restricted else ""
    if by == "systemd":
        return subprocess.run(build_systemd_command(unit, command), check=False).returncode  # noqa: S603
    if by == "bubblewrap":
        command = build_bubblewrap_command(settings["ReadWritePaths"].split(), command)
    account = pwd.getpwnam(settings["User"])
    return subprocess.run(  # noqa: S603
        list(command),
        env=variables,
        cwd="/",
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=os.getgrouplist(account.pw_name, account.pw_gid),
        umask=0o077,
        check=False,
    ).returncode


def build_systemd_command(unit: str, command: Sequence[str]) -> list[str]:
    """Return the call of systemd-run that applies every restriction of the unit."""
    settings = [(name, value) for name, value in read_unit_settings(unit) if name not in _NOT_OF_A_COMMAND]
    properties = [f"--property={name}={value}" for name, value in settings]
    variables = [f"--setenv={name}={value}" for name, value in read_unit_environment(unit).items()]
    return ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", *properties, *variables, "--", *command]


def build_bubblewrap_command(writable: Sequence[str], command: Sequence[str]) -> list[str]:
    """Return the call of bubblewrap that closes the disks as ProtectSystem=strict and PrivateTmp=yes do."""
    view = ["--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc"]
    view += ["--tmpfs", "/tmp", "--tmpfs", "/var/tmp"]  # noqa: S108
    for path in writable:
        view += ["--bind", path, path]
    return ["bwrap", *view, "--unshare-pid", "--die-with-parent", "--chdir", "/", *command]
