"""The lead's server: Flower's SuperLink, of which the hospitals see the fleet paths and nothing else.

One application, two listeners. To the hospitals: TLS, `/v1/fleet/*` without registration. On loopback: everything,
the control API behind a token and the runtime API behind a secret. The process that starts server applications
outlives this one, so that a run goes on when the server is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from fedhealth.consortium.membership import SignedMembership
from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.flower.server.fleet_api import Fleet
from fedhealth.flower.server.long_polling import Arrivals
from fedhealth.flower.server.message_redelivery import Delivered
from fedhealth.flower.server.reply_redelivery import Unconfirmed
from fedhealth.flower.server.runtime_api import Loopback
from fedhealth.flower.server.superexec import Executor
from fedhealth.flower.server.superlink_app import SuperLinkSettings, application
from fedhealth.lead.home import VARIABLE, LeadHome
from fedhealth.lead.project import Project, load_project
from fedhealth.lead.run_recovery import Unattended
from fedhealth.utils.private_files import make_folder, read_secret

log = logging.getLogger("fedhealth.lead")

_LOOK_SECONDS = 2.0  # between two looks at the list of members


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
    executor = Executor(home.path, project.control_port, home.superexec_secret)
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


def _superlink_settings(home: LeadHome, project: Project) -> SuperLinkSettings:
    secret = read_secret(home.superexec_secret)
    return SuperLinkSettings(project.control_port, home.token(), secret, str(home.database))


async def _serve(home: LeadHome, project: Project, executor: Executor) -> None:
    app, arrivals = application(_superlink_settings(home, project)), Arrivals()
    host, port = project.bind
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_keep_alive": 75}
    tls: dict[str, Any] = {"ssl_certfile": str(home.certificate), "ssl_keyfile": str(home.server_key)}
    inside = Loopback(app, arrivals, Unconfirmed(home.path / "unconfirmed"))
    outside = Fleet(app, arrivals, Delivered(home.path / "delivered"))
    private = _Server(uvicorn.Config(inside, "127.0.0.1", project.control_port, lifespan="on", **quiet))
    public = _Server(uvicorn.Config(outside, host, port, lifespan="off", **tls, **quiet))
    servers = (private, public)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _end, servers, arrivals)
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


def _end(servers: Sequence[Any], arrivals: Arrivals) -> None:
    arrivals.close()
    for server in servers:
        server.should_exit = True


async def _keep(home: LeadHome, executor: Executor) -> None:
    """Keep the executor and what it ran running, and the registered nodes equal to the members as they change."""
    known, unattended = None, Unattended(home)
    while True:
        await asyncio.sleep(0.2 if known is None else _LOOK_SECONDS)
        executor.keep()
        try:
            unattended.look()
        except (FedhealthError, OSError) as fault:
            log.warning("runs that nobody works on are not looked for: %s", fault)
        changed = home.membership.stat().st_mtime_ns if home.membership.is_file() else None
        if changed is None or changed == known:
            continue
        try:
            await asyncio.to_thread(_match_members, home)
            known = changed
        except FedhealthError as fault:
            log.warning("the members are not registered yet: %s", fault.problem)


def _match_members(home: LeadHome) -> None:
    from fedhealth.flower.server.control_client import changes
    from fedhealth.lead.connect_control import connect_control

    signed = SignedMembership.loads(home.membership.read_bytes())
    with connect_control(home) as control:
        missing, surplus = changes(control.nodes(), [member.node for member in signed.membership.members])
        for public in missing:
            control.register(public)
        for node in surplus:
            control.unregister(node)
    if missing or surplus:
        log.info("members: %d let in, %d kept out", len(missing), len(surplus))
