"""The lead's commands to its server: Flower's control API on loopback, authorised by the token in the lead's folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

from fedhealth.errors import ConfigError, FederationError
from fedhealth.flower.app_bundle import AppBundle
from fedhealth.flower.compat import restrict_http_client

T = TypeVar("T")


@dataclass(frozen=True)
class RegisteredNode:
    """A site's node at the server: Flower's id, public key (PEM), status (such as `online`), last activation."""

    id: int
    public_key: str
    status: str
    last_activated_at: str


@dataclass(frozen=True)
class FlowerRun:
    """One of Flower's runs: its id, status (`pending`, `running`, `finished`), result, and details of the result."""

    id: int
    status: str
    result: str
    details: str


class ControlClient:
    """Commands to a SuperLink on this machine; a context manager.

    Args:
        port: of its control API, on loopback.
        token: the secret that this API requires.

    """

    def __init__(self, port: int, token: str) -> None:
        self._address = f"127.0.0.1:{port}"
        self._client = ControlHttpClient.from_server_address(self._address, True, None, [_TokenHeader(token)])
        restrict_http_client(self._client, trusted=False, proxy=None)  # the token never goes to a proxy

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *about: object) -> None:
        self._client.close()

    def start_run(self, bundle: AppBundle, job: str, signature: str, study: str = "") -> int:
        """Start a run with a signed job and the study that it names, if any; return its Flower id."""
        config = user_config_to_proto({"job": job, "signature": signature, "study": study})
        fab = Fab(hash_str=bundle.digest, content=bundle.content)
        return int(self._send_request(self._client.StartRun, StartRunRequest(fab=fab, override_config=config)).run_id)

    def get_run(self, run_id: int) -> FlowerRun:
        """Return the state of a run; a run that the server does not know counts as failed."""
        try:
            found = self._send_request(self._client.ListRuns, ListRunsRequest(run_id=run_id))
            return _parse_run(found.run_dict[run_id])
        except _NotFoundError:
            return FlowerRun(run_id, "finished", "failed", "the server no longer knows this run")

    def list_runs(self) -> list[FlowerRun]:
        """Return the latest 50 runs, newest first."""
        listed = self._send_request(self._client.ListRuns, ListRunsRequest(limit=50)).run_dict
        return [_parse_run(each) for each in listed.values()]

    def stop_run(self, run_id: int) -> None:
        """Stop a run."""
        self._send_request(self._client.StopRun, StopRunRequest(run_id=run_id))

    def list_nodes(self) -> list[RegisteredNode]:
        """Return the registered nodes."""
        listed = self._send_request(self._client.ListNodes, ListNodesRequest()).nodes_info
        return [RegisteredNode(n.node_id, n.public_key.decode(), n.status, n.last_activated_at) for n in listed]

    def register_node(self, public_key: str) -> None:
        """Allow a node to connect."""
        self._send_request(self._client.RegisterNode, RegisterNodeRequest(public_key=public_key.encode()))

    def unregister_node(self, node_id: int) -> None:
        """No longer allow a node to connect."""
        self._send_request(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node_id))

    def _send_request(self, method: Callable[[Any], T], request: Any) -> T:
        """Send one request.

        Raises:
            ConfigError: the server is not running.
            FederationError: the server refuses the request.

        """
        try:
            return method(request)
        except httpx.HTTPStatusError as fault:
            kind = _NotFoundError if fault.response.status_code == httpx.codes.NOT_FOUND else FederationError
            raise kind(
                f"The server returned status {fault.response.status_code}: {fault.response.text[:300]}", "See its log."
            ) from fault
        except httpx.TransportError as fault:
            raise ConfigError(
                f"There is no server at {self._address} ({fault}).", "Start it: `fedhealth lead serve`."
            ) from fault


class _NotFoundError(FederationError):
    """The server does not know the requested object."""


class _TokenHeader:
    """Adds the lead's token to every request."""

    def __init__(self, token: str) -> None:
        versions = dict(RuntimeVersionMetadata.from_local_component("CLI").as_metadata())
        self._headers = {"Authorization": f"Bearer {token}", **versions}

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the headers."""
        context.request.headers.update(self._headers)
        return call_next(context)


def plan_node_changes(nodes: Sequence[RegisteredNode], member_keys: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the public keys to register and the nodes to unregister, so that exactly the members are registered."""
    known = {node.public_key.strip(): node.id for node in nodes if node.status != "unregistered"}
    wanted = {public_key.strip(): public_key for public_key in member_keys}
    return [wanted[key] for key in wanted if key not in known], [known[key] for key in known if key not in wanted]


def _parse_run(proto: Any) -> FlowerRun:
    status = proto.status
    return FlowerRun(int(proto.run_id), status.status, status.sub_status, status.details)
