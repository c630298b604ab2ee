"""The lead's own commands to its server: Flower's control API on loopback, behind the token of the lead's folder."""

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
from fedhealth.flower.app_bundle import Bundle

T = TypeVar("T")


@dataclass(frozen=True)
class Node:
    """A site's node as the server knows it: Flower's id, the public key (PEM), `online`, `offline`, ..."""

    id: int
    public: str
    status: str
    since: str


@dataclass(frozen=True)
class FlowerRun:
    """One of Flower's runs: its id, `pending`, `running` or `finished`, how it finished, and why."""

    id: int
    status: str
    result: str
    details: str


class Control:
    """Commands to a SuperLink on this machine; a context manager.

    Args:
        port: of its control API, on loopback.
        token: the secret that it asks for.

    """

    def __init__(self, port: int, token: str) -> None:
        self._address = f"127.0.0.1:{port}"
        self._client = ControlHttpClient.from_server_address(self._address, True, None, [_Token(token)])

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *about: object) -> None:
        self._client.close()

    def start(self, bundle: Bundle, job: str, signature: str) -> int:
        """Start a run; return Flower's id of it."""
        words = user_config_to_proto({"job": job, "signature": signature})
        fab = Fab(hash_str=bundle.digest, content=bundle.content)
        return int(self._call(self._client.StartRun, StartRunRequest(fab=fab, override_config=words)).run_id)

    def run(self, number: int) -> FlowerRun:
        """Return how a run stands; one that the server does not know (any more) has failed."""
        try:
            return _run(self._call(self._client.ListRuns, ListRunsRequest(run_id=number)).run_dict[number])
        except _UnknownError:
            return FlowerRun(number, "finished", "failed", "the server does not know it any more")

    def runs(self) -> list[FlowerRun]:
        """Return the latest runs, the newest first."""
        listed = self._call(self._client.ListRuns, ListRunsRequest(limit=50)).run_dict
        return [_run(each) for each in listed.values()]

    def stop(self, number: int) -> None:
        """Stop a run."""
        self._call(self._client.StopRun, StopRunRequest(run_id=number))

    def nodes(self) -> list[Node]:
        """Return the registered nodes."""
        listed = self._call(self._client.ListNodes, ListNodesRequest()).nodes_info
        return [Node(n.node_id, n.public_key.decode(), n.status, n.last_activated_at) for n in listed]

    def register(self, public: str) -> None:
        """Let a node in."""
        self._call(self._client.RegisterNode, RegisterNodeRequest(public_key=public.encode()))

    def unregister(self, node: int) -> None:
        """Keep a node out from now on."""
        self._call(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node))

    def _call(self, method: Callable[[Any], T], request: Any) -> T:
        """Make one request.

        Raises:
            ConfigError: no server there.
            FederationError: it refuses.

        """
        try:
            return method(request)
        except httpx.HTTPStatusError as fault:
            kind = _UnknownError if fault.response.status_code == httpx.codes.NOT_FOUND else FederationError
            raise kind(
                f"The server answers {fault.response.status_code}: {fault.response.text[:300]}", "See its log."
            ) from fault
        except httpx.TransportError as fault:
            raise ConfigError(
                f"There is no server at {self._address} ({fault}).", "Start it: `fedhealth lead serve`."
            ) from fault


class _UnknownError(FederationError):
    """The server does not know what is asked for."""


class _Token:
    """Shows the lead's token with every request."""

    def __init__(self, token: str) -> None:
        versions = dict(RuntimeVersionMetadata.from_local_component("CLI").as_metadata())
        self._headers = {"Authorization": f"Bearer {token}", **versions}

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the headers."""
        context.request.headers.update(self._headers)
        return call_next(context)


def changes(nodes: Sequence[Node], members: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the public keys to let in and the nodes to keep out, so that exactly the members are there."""
    known = {node.public.strip(): node.id for node in nodes if node.status != "unregistered"}
    wanted = {public.strip(): public for public in members}
    return [wanted[key] for key in wanted if key not in known], [known[key] for key in known if key not in wanted]


def _run(proto: Any) -> FlowerRun:
    status = proto.status
    return FlowerRun(int(proto.run_id), status.status, status.sub_status, status.details)
