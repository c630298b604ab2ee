"""Flower's SuperLink as an ASGI application, with our settings and token authentication."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any

from fedhealth.flower.compat import limit_token_cleanup

_FLEET_API_TYPE = "grpc-rere"  # Flower's settings require a type; sites connect to our `FleetApi` in any case


@dataclass(frozen=True)
class SuperLinkSettings:
    """The settings of the SuperLink.

    Attributes:
        control_port: on loopback, of control and runtime API.
        token: the secret that the control API requires.
        superexec_secret: the secret that the runtime API requires.
        database: path of its SQLite file.

    """

    control_port: int
    token: str
    superexec_secret: bytes
    database: str


def create_superlink_app(settings: SuperLinkSettings) -> Any:
    """Return Flower's application with our authentication."""
    from flwr.common.constant import ISOLATION_MODE_PROCESS
    from flwr.superlink.auth_plugin.noop_auth_plugin import NoOpControlAuthnPlugin
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    class WithToken(NoOpControlAuthnPlugin):
        """Authenticates requests that contain the lead's token."""

        def validate_tokens_in_metadata(self, metadata: Any) -> Any:
            """Compare the token in constant time."""
            token = "".join(str(value) for _, value in metadata)
            accepted, account = super().validate_tokens_in_metadata(metadata)
            return (True, account) if hmac.compare_digest(token, settings.token) and accepted else (False, None)

    app = create_app(
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
            fleet_api_type=_FLEET_API_TYPE,
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
    limit_token_cleanup(app.state.linkstate_factory.state())
    return app
