"""Flower's SuperLink as an ASGI application: our settings, who may command it, and one thing that it does too often."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from typing import Any

_SWEEP_SECONDS = 1.0  # between two looks for lapsed claims


@dataclass(frozen=True)
class SuperLinkSettings:
    """What the SuperLink needs to know.

    Attributes:
        control_port: on loopback, of control and runtime API.
        token: what the control API asks for.
        superexec_secret: what the runtime API asks for.
        database: path of its SQLite file.

    """

    control_port: int
    token: str
    superexec_secret: bytes
    database: str


def application(settings: SuperLinkSettings) -> Any:
    """Return Flower's application with our guards."""
    from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
    from flwr.superlink.auth_plugin.noop_auth_plugin import NoOpControlAuthnPlugin
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    class WithToken(NoOpControlAuthnPlugin):
        """Admits whoever shows the lead's token."""

        def validate_tokens_in_metadata(self, metadata: Any) -> Any:
            """Compare in constant time."""
            shown = "".join(str(value) for _, value in metadata)
            accepted, account = super().validate_tokens_in_metadata(metadata)
            return (True, account) if hmac.compare_digest(shown, settings.token) and accepted else (False, None)

    made = create_app(
        SuperLinkLifespanConfig(
            control_address="127.0.0.1:0",
            health_server_address=None,
            host="127.0.0.1",
            port=settings.control_port,
            insecure=True,
            certificates=None,
            superexec_auth_secret=settings.superexec_secret,
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
            database=settings.database,
            isolation=ISOLATION_MODE_PROCESS,
            runtime_dependency_install=False,
        ),
        SuperLinkLifespan,
    )
    _sweep_seldom(made.state.linkstate_factory.state())
    return made


def _sweep_seldom(state: Any) -> None:
    """Look for lapsed claims once a second at most.

    Flower 1.41 looks before every request, and the look writes: requests then wait for each other's lock on the
    database, which was two thirds of a round's time. A claim lapses after half a minute; a second more is nothing.
    """
    sweep, due = state._cleanup_expired_task_tokens, 0.0

    def seldom() -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _SWEEP_SECONDS
            sweep()

    state._cleanup_expired_task_tokens = seldom
