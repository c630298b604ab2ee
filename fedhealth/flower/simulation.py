"""Flower's simulation engine, which runs the sites on Ray."""

from __future__ import annotations

import logging
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp


def simulate(server_app: ServerApp, client_app: ClientApp, num_sites: int, resources: dict[str, Any]) -> None:
    """Run the two applications with one virtual SuperNode per site.

    Args:
        server_app: the lead's application.
        client_app: the hospital's application.
        num_sites: the number of virtual SuperNodes.
        resources: CPU cores and share of a GPU for one site's task, as Ray names them.

    """
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)  # hide its deprecation notice: `flwr run` leaves a server behind
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=num_sites,
        backend_config={"client_resources": resources},
    )
