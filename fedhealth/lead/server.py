"""The lead's server: Flower's SuperLink, of which the hospitals can reach the fleet API only.

One application, two listeners. For the hospitals: TLS, `/v1/fleet/*` without registration. On loopback: everything,
the control API behind a token and the runtime API behind a secret. The process that starts server apps (SuperExec)
outlives this one: when the SuperLink restarts, runs continue, and the sites reconnect by themselves (see
`fedhealth.site.daemon`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvicorn

from fedhealth.errors import ConfigError, StartRefusedError
from fedhealth.flower.client.proxy import keep_loopback_direct
from fedhealth.flower.server.fleet_api import FleetApi
from fedhealth.flower.server.long_polling import LongPolling
from fedhealth.flower.server.message_redelivery import MessageRedelivery
from fedhealth.flower.server.reply_redelivery import ReplyRedelivery
from fedhealth.flower.server.runtime_api import RuntimeApi
from fedhealth.flower.server.site_contacts import SiteContacts
from fedhealth.flower.server.superexec import SuperExec
from fedhealth.flower.server.superlink_app import SuperLinkSettings, create_superlink_app
from fedhealth.lead.home import LEAD_HOME_VARIABLE, LeadHome
from fedhealth.lead.project import Project, load_project
from fedhealth.lead.supervisor import Supervisor
from fedhealth.utils.private_files import make_private_folder, read_private_file

log = logging.getLogger("fedhealth.lead")


def serve_superlink(home: LeadHome) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the consortium is not set up.
        StartRefusedError: the server of this folder is running already, or an address is in use.

    """
    project = load_project(home.project)
    for path in (home.certificate, home.server_key, home.ca):
        if not path.is_file():
            raise ConfigError(f"{path} is missing.", "Run `fedhealth lead provision` first.")
    superexec = SuperExec(home.path, project.control_port, home.superexec_secret)
    with home.lock_server(), ExitStack() as stack:
        addresses = [("127.0.0.1", project.control_port), project.listen_address]
        listeners = [stack.enter_context(open_listener(*address)) for address in addresses]
        os.environ.update(build_environment(home))
        asyncio.run(_serve_listeners(home, project, superexec, listeners))
        superexec.stop()  # not after a crash: the runs continue, and the next server finds it


def open_listener(host: str, port: int) -> socket.socket:
    """Listen on an address; `::` takes IPv4 too.

    Raises:
        StartRefusedError: the address is in use, or not of this machine.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()  # IPv4 too
    try:
        listener = socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as fault:
        raise StartRefusedError(
            f"The server cannot listen on {host}:{port}: {fault.strerror}.",
            "Stop the program that uses the address, or change listen or control_port in project.yaml.",
        ) from fault
    # as asyncio does for its own listeners: else many responses wait for 40 ms (Nagle's algorithm)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def build_environment(home: LeadHome) -> dict[str, str]:
    """Return environment variables for Flower's processes: our folders, no telemetry, no update check."""
    return {
        LEAD_HOME_VARIABLE: str(home.path),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(make_private_folder(home.path / "flower")),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        **keep_loopback_direct(),  # Flower's own processes talk to this machine
    }


def _make_superlink_settings(home: LeadHome, project: Project) -> SuperLinkSettings:
    secret = read_private_file(home.superexec_secret)
    return SuperLinkSettings(project.control_port, home.load_control_token(), secret, str(home.database))


async def _serve_listeners(
    home: LeadHome, project: Project, superexec: SuperExec, listeners: Sequence[socket.socket]
) -> None:
    app, long_polling = create_superlink_app(_make_superlink_settings(home, project)), LongPolling()
    host, port = project.listen_address
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_keep_alive": 75}
    tls: dict[str, Any] = {"ssl_certfile": str(home.certificate), "ssl_keyfile": str(home.server_key)}
    inside = RuntimeApi(app, long_polling, ReplyRedelivery(home.path / "unconfirmed"))
    outside = FleetApi(app, long_polling, MessageRedelivery(home.path / "delivered"), SiteContacts(home.contacts))
    private = _Server(uvicorn.Config(inside, "127.0.0.1", project.control_port, lifespan="on", **quiet))
    public = _Server(uvicorn.Config(outside, host, port, lifespan="off", **tls, **quiet))
    servers = (private, public)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _shut_down, servers, long_polling)
    log.info("serving hospitals on %s:%d, the lead on 127.0.0.1:%d", host, port, project.control_port)
    supervision = asyncio.create_task(Supervisor(home, superexec).run())
    try:
        await asyncio.gather(*(server.serve([found]) for server, found in zip(servers, listeners, strict=True)))
    finally:
        supervision.cancel()


class _Server(uvicorn.Server):
    """One of two servers in this process; the process handles signals for both."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not install signal handlers."""
        yield


def _shut_down(servers: Sequence[Any], long_polling: LongPolling) -> None:
    long_polling.close()
    for server in servers:
        server.should_exit = True
