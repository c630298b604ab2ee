"""The lead's server: Flower's SuperLink, of which the hospitals see the fleet paths and nothing else.

One application, two listeners. To the hospitals: TLS, `/v1/fleet/*` without registration. On loopback: everything,
the control API behind a token and the runtime API behind a secret. The process that starts server applications
outlives this one, so that a run goes on when the server is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.lead.home import VARIABLE, LeadHome
from fedhealth.lead.project import Project, load_project
from fedhealth.site.membership import SignedMembership
from fedhealth.vault import make_folder, read_secret, write_secret

log = logging.getLogger("fedhealth.lead")

FLEET = "/v1/fleet/"
_NOT_FROM_OUTSIDE = frozenset({f"{FLEET}register-node", f"{FLEET}unregister-node"})  # members come from the roster
_LARGEST_REQUEST = 2**26  # bytes; Flower cuts arrays into pieces of 5 MB
_LOOK_SECONDS = 2.0  # between two looks at the list of members


class OnlyFleet:
    """Shows an ASGI application's fleet paths and hides the rest."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer 404 (another path) or 413 (too large)."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if not path.startswith(FLEET) or path in _NOT_FROM_OUTSIDE or scope["method"] != "POST":
            await _answer(send, 404)
        elif not _is_small(dict(scope["headers"])):
            await _answer(send, 413)
        else:
            await self._app(scope, receive, send)


def _is_small(headers: dict[bytes, bytes]) -> bool:
    size = headers.get(b"content-length", b"")
    return size.isdigit() and int(size) <= _LARGEST_REQUEST


async def _answer(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def serve(home: LeadHome) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the consortium is not set up, or an address is taken.

    """
    project = load_project(home.project)
    for path in (home.certificate, home.server_key, home.ca):
        if not path.is_file():
            raise ConfigError(f"{path} is missing.", "Run `fedhealth lead provision` first.")
    os.environ.update(environment(home))
    executor = Executor(home, project)
    try:
        asyncio.run(_serve(home, project, executor))
    finally:
        executor.stop()


def environment(home: LeadHome) -> dict[str, str]:
    """Return what Flower's processes must find in their environment: our folders, and nobody called home."""
    return {
        VARIABLE: str(home.path),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(make_folder(home.path / "flower")),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    }


async def _serve(home: LeadHome, project: Project, executor: Executor) -> None:
    app = _application(home, project)
    host, port = project.bind
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_keep_alive": 75}
    tls: dict[str, Any] = {"ssl_certfile": str(home.certificate), "ssl_keyfile": str(home.server_key)}
    private = _Server(uvicorn.Config(app, "127.0.0.1", project.control_port, lifespan="on", **quiet))
    public = _Server(uvicorn.Config(OnlyFleet(app), host, port, lifespan="off", **tls, **quiet))
    servers = (private, public)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _end, servers)
    log.info("serving hospitals on %s:%d, the lead on 127.0.0.1:%d", host, port, project.control_port)
    members = asyncio.create_task(_keep(home, executor))
    try:
        await asyncio.gather(*(server.serve() for server in servers))
    except SystemExit as fault:  # uvicorn's way to say that an address is taken
        raise ConfigError(f"{host}:{port} or 127.0.0.1:{project.control_port} is taken.", "Stop it first.") from fault
    finally:
        members.cancel()


class _Server(uvicorn.Server):
    """One of several servers in a process: signals are for all of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def _end(servers: Sequence[Any]) -> None:
    for server in servers:
        server.should_exit = True


def _application(home: LeadHome, project: Project) -> Any:
    """Return Flower's application with our guards."""
    from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
    from flwr.superlink.auth_plugin.noop_auth_plugin import NoOpControlAuthnPlugin
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    token = home.token()

    class WithToken(NoOpControlAuthnPlugin):
        """Admits whoever shows the lead's token."""

        def validate_tokens_in_metadata(self, metadata: Any) -> Any:
            """Compare in constant time."""
            shown = "".join(str(value) for _, value in metadata)
            accepted, account = super().validate_tokens_in_metadata(metadata)
            return (True, account) if hmac.compare_digest(shown, token) and accepted else (False, None)

    return create_app(
        SuperLinkLifespanConfig(
            control_address="127.0.0.1:0",
            health_server_address=None,
            host="127.0.0.1",
            port=project.control_port,
            insecure=True,
            certificates=None,
            superexec_auth_secret=read_secret(home.superexec_secret),
            authn_plugin=WithToken(),
            event_log_plugin=None,
            fleet_event_log_plugin=None,
            enable_event_log=False,
            artifact_provider=None,
            enable_supernode_auth=True,
            fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
            fleet_api_address=None,
            simulation=False,
            ssl_ca_certfile=None,
            ssl_certfile=None,
            ssl_keyfile=None,
            database=str(home.database),
            isolation=ISOLATION_MODE_PROCESS,
            runtime_dependency_install=False,
        ),
        SuperLinkLifespan,
    )


async def _keep(home: LeadHome, executor: Executor) -> None:
    """Keep the executor running, and the registered nodes equal to the members, also when the list changes."""
    known = None
    while True:
        await asyncio.sleep(0.2 if known is None else _LOOK_SECONDS)
        executor.keep()
        changed = home.membership.stat().st_mtime_ns if home.membership.is_file() else None
        if changed is None or changed == known:
            continue
        try:
            await asyncio.to_thread(_match_members, home)
            known = changed
        except FedhealthError as fault:
            log.warning("the members are not registered yet: %s", fault.problem)


def _match_members(home: LeadHome) -> None:
    from fedhealth.lead.control import Control, changes

    signed = SignedMembership.loads(home.membership.read_bytes())
    with Control(home) as control:
        missing, surplus = changes(control.nodes(), [member.node for member in signed.membership.members])
        for public in missing:
            control.register(public)
        for node in surplus:
            control.unregister(node)
    if missing or surplus:
        log.info("members: %d let in, %d kept out", len(missing), len(surplus))


class Executor:
    """Flower's starter of server applications, beside the server: one that outlived an earlier server is kept."""

    def __init__(self, home: LeadHome, project: Project) -> None:
        self._home, self._note = home, home.path / "executor.pid"
        program = Path(sys.executable).with_name("flower-superexec")
        self._command = [str(program), "--insecure", "--runtime-api-address", f"127.0.0.1:{project.control_port}"]
        self._command += ["--superexec-auth-secret-file", str(home.superexec_secret)]
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Start it unless it runs."""
        if self._process is not None and self._process.poll() is not None:
            log.warning("the starter of server applications ended; see executor.log. It is started again.")
        elif self._runs():
            return
        with (self._home.path / "executor.log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                self._command, stdout=output, stderr=output, start_new_session=True
            )
        write_secret(self._note, str(self._process.pid).encode())

    def stop(self) -> None:
        """End it, and what it started."""
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int(self._note.read_text("ascii")), signal.SIGTERM)
        self._note.unlink(missing_ok=True)
        if self._process is not None:
            self._process.wait()

    def _runs(self) -> bool:
        try:
            pid = int(self._note.read_text("ascii"))
            return b"flower-superexec" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return False
