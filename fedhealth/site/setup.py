"""Set up a hospital's machine: account, folder, keys, policy and systemd unit that fit each other.

Every step may be repeated: what is there is kept, and what contradicts the answers is an error.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fedhealth.errors import ConfigError, TrustError
from fedhealth.site.home import SiteHome
from fedhealth.site.init import render_policy
from fedhealth.site.policy import Policy, load_policy
from fedhealth.site.run_as_service import SYSTEMD_RUNS, run_as_service
from fedhealth.site.setup_plan import (
    UNIT_NAME,
    SetupAnswers,
    render_policy_sections,
    render_unit,
)
from fedhealth.utils.atomic_io import write_atomic

_PASSWORD_FILE, _KIT_FILE = "proxy-password.txt", "kit-from-lead.zip"


class MachineSetup:
    """The steps of a setup.

    Args:
        answers: what was asked.
        program: the command `fedhealth` as the service starts it.
        report: is called with one line for each finished step.

    """

    def __init__(self, answers: SetupAnswers, program: Sequence[str], report: Callable[[str], None]) -> None:
        self.answers, self.program, self._report = answers, list(program), report
        self.home = SiteHome(answers.home)
        self.unit = render_unit(answers, Path(self.program[0]))

    def prepare_machine(self) -> None:
        """Create the account, its folder, keys, join request, policy and unit.

        Raises:
            ConfigError: no administrator rights, or what is there contradicts the answers.
            TrustError: the folder belongs to somebody else.

        """
        if os.geteuid() != 0:
            raise ConfigError("`fedhealth site setup` creates an account and a service.", "Run it with sudo.")
        self._ensure_account()
        self._ensure_folder()
        known = self._has_own_policy()
        self.run("site", "init", "--name", self.answers.name, "--lead", self.answers.lead, restricted=False)
        self._write_policy(known)
        self._install_unit()

    def _has_own_policy(self) -> bool:
        """Return whether there is a site.yaml that says more than the one that a setup began and did not finish."""
        if not self.home.policy.exists():
            return False
        unfinished = render_policy(self.answers.name, self.answers.lead)
        return self.home.policy.read_text("utf-8", errors="replace") != unfinished

    def install_kit(self, kit: bytes, fingerprint: str | None) -> None:
        """Install the lead's kit as the service's user.

        Raises:
            TrustError: the kit was refused; the command has said why.

        """
        path = self.home.path / _KIT_FILE
        self._write_own_file(path, kit)
        try:
            given = ["--fingerprint", fingerprint] if fingerprint else []
            self.run("site", "install", str(path), *given, restricted=False)
        finally:
            path.unlink(missing_ok=True)

    def run_check(self) -> int:
        """Run `site check` as the service, under the unit's restrictions; return its exit code."""
        return run_as_service(self.unit, [*self.program, "site", "check"])

    def run(self, *arguments: str, restricted: bool = True) -> None:
        """Run a command of the site as the service's user.

        Raises:
            TrustError: it failed; it has said why.

        """
        code = run_as_service(self.unit, [*self.program, *arguments], restricted)
        if code:
            raise TrustError(
                f"`fedhealth {' '.join(arguments[:2])}` ended with exit code {code}.", "See its message above."
            )

    def _ensure_account(self) -> None:
        user, home = self.answers.user, self.home.path
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            command = ["useradd", "--system", "--home-dir", str(home), "--no-create-home"]
            _run_tool([*command, "--shell", "/usr/sbin/nologin", user])
            self._report(f"Created the account {user}.")
            return
        if account.pw_uid == 0:
            raise ConfigError(f"The account {user} has administrator rights.", "Give another `user`.")

    def _ensure_folder(self) -> None:
        account, path = pwd.getpwnam(self.answers.user), self.home.path
        if not path.exists():
            path.mkdir(parents=True, mode=0o700)
            os.chown(path, account.pw_uid, account.pw_gid)
            self._report(f"Created {path}.")
        if path.is_symlink() or path.stat().st_uid != account.pw_uid:
            raise TrustError(
                f"{path} does not belong to {account.pw_name}.",
                f"Find out why, or run: chown -R {account.pw_name} {path}",
            )
        path.chmod(0o700)

    def _write_policy(self, known: bool) -> None:
        """Add data and proxy to a new site.yaml; an old one is the hospital's own and must say the same."""
        if known:
            _check_policy(load_policy(self.home), self.answers, self.home)
            return
        sections = render_policy_sections(self.answers, self._copy_password())
        if sections:
            self._write_own_file(
                self.home.policy, f"{self.home.policy.read_text('utf-8').rstrip()}\n\n{sections}".encode()
            )
            self._report(f"Wrote your data and proxy into {self.home.policy}; every limit has its strict default.")
        load_policy(self.home)

    def _copy_password(self) -> Path | None:
        source = self.answers.proxy.credentials
        if source is None:
            return None
        target = self.home.path / _PASSWORD_FILE
        try:
            self._write_own_file(target, source.read_bytes())
        except OSError as fault:
            raise ConfigError(f"{source}: cannot be read ({fault.strerror}).", "Correct proxy.credentials.") from fault
        return target

    def _write_own_file(self, path: Path, content: bytes) -> None:
        account = pwd.getpwnam(self.answers.user)
        write_atomic(path, content, 0o600)
        os.chown(path, account.pw_uid, account.pw_gid)

    def _install_unit(self) -> None:
        target = self.answers.units / UNIT_NAME
        if target.is_file() and target.read_text("utf-8") == self.unit:
            return
        self.answers.units.mkdir(parents=True, exist_ok=True)
        write_atomic(target, self.unit.encode(), 0o644)
        if SYSTEMD_RUNS.is_dir():
            _run_tool(["systemctl", "daemon-reload"])
        self._report(f"Wrote {target}.")


def find_program() -> list[str]:
    """Return the command `fedhealth` as it was started.

    Links are kept: the unit names /opt/fedhealth, and an upgrade changes where that leads.
    """
    started, beside = Path(sys.argv[0]).absolute(), Path(sys.executable).with_name("fedhealth")
    for path in (started, beside):
        if path.name == "fedhealth" and path.is_file():
            return [str(path)]
    raise ConfigError("The command fedhealth is not installed.", "Install the wheel into a virtual environment.")


def _check_policy(policy: Policy, answers: SetupAnswers, home: SiteHome) -> None:
    different = [name for name, source in answers.data.items() if policy.data.get(name) != source]
    if different or policy.proxy.address != answers.proxy.address:
        what = ", ".join([*(f"data.{name}" for name in different), *(["proxy"] * (not different))])
        raise ConfigError(
            f"{home.policy} is there already and says something else about {what}.",
            "That file counts: edit it, or change your answers to what it says.",
        )


def _run_tool(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ConfigError(f"`{' '.join(command[:2])}` failed: {done.stderr.strip()}.", "See the system's log.")
