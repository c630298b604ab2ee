"""Paths of the lead's folder of one project: keys, certificates, members, database and secrets of the server."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedhealth.consortium.membership import Member
from fedhealth.errors import ConfigError, StartRefusedError, TrustError
from fedhealth.utils.atomic_io import create_once, write_atomic
from fedhealth.utils.digest import encode_canonical
from fedhealth.utils.file_lock import lock_file
from fedhealth.utils.json_model import parse_model
from fedhealth.utils.private_files import make_private_folder, read_private_file
from fedhealth.utils.user_path import expand_user

LEAD_HOME_VARIABLE = "FEDHEALTH_LEAD"
_RESTORE = "Restore it from a backup."


@dataclass(frozen=True)
class LeadHome:
    """The folder of one consortium on the lead's machine."""

    path: Path

    @classmethod
    def find(cls, path: Path | None = None) -> LeadHome:
        """Return the home at `path`, else at FEDHEALTH_LEAD, else at ~/.fedhealth-lead."""
        chosen = path or Path(os.environ.get(LEAD_HOME_VARIABLE) or "~/.fedhealth-lead")
        return cls(expand_user(chosen).absolute())

    @property
    def project(self) -> Path:
        """The project's settings, see `fedhealth.lead.project`."""
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
        """The consortium's key before the last rotation; it endorses memberships that the current key signs."""
        return self.keys / "former.key"

    @property
    def ca_key(self) -> Path:
        """EC secp384r1, PEM: signs the server's certificate."""
        return self.keys / "ca.key"

    @property
    def server_key(self) -> Path:
        """EC secp384r1, PEM: the server's private key."""
        return self.keys / "server.key"

    @property
    def ca(self) -> Path:
        """The certificate of the certificate authority, PEM; part of every kit."""
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
        """Folder with one kit NAME.zip for each member, to send to it."""
        return self.path / "kits"

    @property
    def members_folder(self) -> Path:
        """Folder with one file NAME.json for each admitted member: its name and public keys."""
        return self.path / "members"

    @property
    def revoked_file(self) -> Path:
        """Public keys that are never admitted again."""
        return self.path / "revoked.json"

    @property
    def database(self) -> Path:
        """The SuperLink's database."""
        return self.path / "superlink.db"

    @property
    def contacts(self) -> Path:
        """Folder with one file for each node: its last request, and what it reported about its installation."""
        return self.path / "contacts"

    @property
    def token_file(self) -> Path:
        """The token that the control API requires."""
        return self.path / "control.token"

    @property
    def superexec_secret(self) -> Path:
        """The secret that the runtime API requires."""
        return self.path / "superexec.secret"

    @property
    def web_folder(self) -> Path:
        """Folder of the page: its lock, and its tokens while it is served."""
        return self.path / "web"

    @property
    def web_log(self) -> Path:
        """Hash-chained: who signed in to the page, and what it refused."""
        return self.web_folder / "audit.jsonl"

    @property
    def runs(self) -> Path:
        """Folder of run directories."""
        return self.path / "runs"

    @property
    def studies(self) -> Path:
        """Folder of the published studies, one file for each version, to send to the hospitals."""
        return self.path / "studies"

    def create(self) -> None:
        """Create missing folders and secrets of the server; existing ones are kept."""
        for folder in (self.path, self.keys, self.kits, self.members_folder, self.runs):
            make_private_folder(folder)
        for path in (self.token_file, self.superexec_secret):
            create_once(path, lambda: secrets.token_hex(32).encode(), 0o600)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a lock: no other command changes keys or members meanwhile."""
        with lock_file(self.path / ".lock"):
            yield

    @contextmanager
    def lock_server(self) -> Iterator[None]:
        """Hold the server's lock: only one server may run in this folder.

        Raises:
            StartRefusedError: another server holds it.

        """
        refused = StartRefusedError(
            f"The server of {self.path} is running already.", "`fedhealth lead sites` lists who is connected to it."
        )
        with lock_file(self.path / "server.lock", wait=0, error=refused):
            yield

    def load_control_token(self) -> str:
        """Return the token of the control API.

        Raises:
            TrustError: it is missing, or other users can read it.

        """
        return read_private_file(self.token_file).decode().strip()

    def load_members(self) -> tuple[Member, ...]:
        """Return the admitted members, sorted by name.

        Raises:
            TrustError: a member's file is damaged.

        """
        files = sorted(self.members_folder.glob("*.json"))
        found = tuple(parse_model(path.read_bytes(), Member, str(path), _RESTORE) for path in files)
        for path, member in zip(files, found, strict=True):
            if path.stem != member.site:
                raise TrustError(f"{path} holds the keys of {member.site!r}, another member.", _RESTORE)
        return found

    def save_member(self, member: Member) -> None:
        """Write a member's file."""
        write_atomic(self.members_folder / f"{member.site}.json", encode_canonical(member.fields()))

    def remove_member(self, site: str) -> None:
        """Remove a member's file.

        Raises:
            ConfigError: there is no such member.

        """
        if site not in {member.site for member in self.load_members()}:
            raise ConfigError(f"No member is called {site!r}.", "`fedhealth lead members` lists them.")
        (self.members_folder / f"{site}.json").unlink()

    def load_revoked_members(self) -> tuple[Member, ...]:
        """Return the members whose keys are never admitted again.

        Raises:
            TrustError: the list is damaged.

        """
        if not self.revoked_file.exists():
            return ()
        content = self.revoked_file.read_bytes()
        return parse_model(content, tuple[Member, ...], str(self.revoked_file), _RESTORE)

    def add_revoked_member(self, member: Member) -> None:
        """Record a member's keys as revoked."""
        listed = [entry.fields() for entry in (*self.load_revoked_members(), member)]
        write_atomic(self.revoked_file, json.dumps(listed, indent=1).encode())
