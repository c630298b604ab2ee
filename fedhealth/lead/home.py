"""The lead's folder of one project: keys, certificates, members, the server's database and secrets."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedhealth.consortium.membership import Member
from fedhealth.consortium.signatures import canonical, parse_json
from fedhealth.errors import ConfigError, TrustError
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.private_files import make_folder, read_secret, write_secret

VARIABLE = "FEDHEALTH_LEAD"


@dataclass(frozen=True)
class LeadHome:
    """Where everything of one consortium lies, on the lead's machine."""

    path: Path

    @classmethod
    def find(cls, path: Path | None = None) -> LeadHome:
        """Return the home at `path`, else where FEDHEALTH_LEAD says, else ~/.fedhealth-lead."""
        chosen = path or Path(os.environ.get(VARIABLE) or "~/.fedhealth-lead")
        return cls(chosen.expanduser().absolute())

    @property
    def project(self) -> Path:
        """What the lead decides: see `fedhealth.lead.project`."""
        return self.path / "project.yaml"

    @property
    def keys(self) -> Path:
        """Folder of private keys."""
        return self.path / "keys"

    @property
    def consortium_key(self) -> Path:
        """Ed25519, raw: signs memberships and jobs."""
        return self.keys / "consortium.key"

    @property
    def former_key(self) -> Path:
        """The consortium's key before the last `rotate`: endorses what the present one signs."""
        return self.keys / "former.key"

    @property
    def ca_key(self) -> Path:
        """EC secp384r1, PEM: signs the server's certificate."""
        return self.keys / "ca.key"

    @property
    def server_key(self) -> Path:
        """EC secp384r1, PEM: the server's own."""
        return self.keys / "server.key"

    @property
    def ca(self) -> Path:
        """The authority's certificate, PEM; part of every kit."""
        return self.path / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The server's certificate, PEM."""
        return self.path / "server.crt"

    @property
    def membership(self) -> Path:
        """The latest signed list of members."""
        return self.path / "membership.json"

    @property
    def kits(self) -> Path:
        """One file NAME.zip for each member, to be sent to it."""
        return self.path / "kits"

    @property
    def members_folder(self) -> Path:
        """One file NAME.json for each member: its join request as it was admitted."""
        return self.path / "members"

    @property
    def revoked_file(self) -> Path:
        """Public keys that are never admitted again."""
        return self.path / "revoked.json"

    @property
    def database(self) -> Path:
        """The SuperLink's."""
        return self.path / "superlink.db"

    @property
    def token_file(self) -> Path:
        """The secret that the control API asks for."""
        return self.path / "control.token"

    @property
    def superexec_secret(self) -> Path:
        """The secret that the runtime API asks for."""
        return self.path / "superexec.secret"

    @property
    def runs(self) -> Path:
        """Folder of run directories."""
        return self.path / "runs"

    def create(self) -> None:
        """Make the folders and the server's secrets; what is there is kept."""
        for folder in (self.path, self.keys, self.kits, self.members_folder, self.runs):
            make_folder(folder)
        for path in (self.token_file, self.superexec_secret):
            if not path.exists():
                write_secret(path, secrets.token_hex(32).encode())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other command from changing keys or members meanwhile."""
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def token(self) -> str:
        """Return the control API's secret.

        Raises:
            TrustError: it is missing, or others can read it.

        """
        return read_secret(self.token_file).decode().strip()

    def members(self) -> tuple[Member, ...]:
        """Return the admitted members, sorted by name.

        Raises:
            TrustError: a member's file is damaged.

        """
        files = sorted(self.members_folder.glob("*.json"))
        found = tuple(Member.parse(parse_json(path.read_bytes(), str(path))) for path in files)
        for path, member in zip(files, found, strict=True):
            if path.stem != member.site:
                raise TrustError(f"{path} holds the keys of {member.site!r}.", "Restore the members folder.")
        return found

    def save_member(self, member: Member) -> None:
        """Write a member's file."""
        write_atomic(self.members_folder / f"{member.site}.json", canonical(member.fields()))

    def drop_member(self, site: str) -> None:
        """Remove a member's file.

        Raises:
            ConfigError: there is no such member.

        """
        if site not in {member.site for member in self.members()}:
            raise ConfigError(f"There is no member {site!r}.", "`fedhealth lead members` lists them.")
        (self.members_folder / f"{site}.json").unlink()

    def revoked(self) -> tuple[Member, ...]:
        """Return the members whose keys are never admitted again.

        Raises:
            TrustError: the list is damaged.

        """
        if not self.revoked_file.exists():
            return ()
        listed = parse_json(self.revoked_file.read_bytes(), str(self.revoked_file))
        return tuple(map(Member.parse, listed))

    def add_revoked(self, member: Member) -> None:
        """Remember a member's keys as revoked."""
        listed = [entry.fields() for entry in (*self.revoked(), member)]
        write_atomic(self.revoked_file, json.dumps(listed, indent=1).encode())
