"""A site's connection to the lead's server: Flower's fleet protocol over TLS, authenticated by the node's key.

Stock Flower starts a process for each message and waits three seconds between polls; here one process polls, and the
server holds a request until a message arrives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.common.serde import run_from_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedhealth.errors import FederationError, TrustError
from fedhealth.flower.client.http_client import (
    ConnectionLostError,
    RequestRefusedError,
    create_http_client,
    send_request,
)
from fedhealth.flower.client.message_codec import EncodedMessage, iter_object_ids
from fedhealth.flower.client.proxy import Proxy

_PULL_SECONDS, _PULL_ATTEMPTS = 0.05, 600  # until an announced object has arrived at the server
_PARALLEL_OBJECTS = 8  # pulled or pushed at the same time


@dataclass(frozen=True)
class PulledMessage:
    """A message for this site, without its content.

    Attributes:
        run_id: Flower's run id.
        header: the message's metadata (protobuf).
        tree: the objects that the message consists of.
        message_id: Flower's message id.
        message_type: such as `train.fit`.

    """

    run_id: int
    header: bytes
    tree: ObjectTree
    message_id: str
    message_type: str


@dataclass(frozen=True)
class RunInfo:
    """What a site learns about a run from the server.

    Attributes:
        run_id: Flower's run id.
        bundle_digest: SHA-256 of the run's app bundle, hexadecimal.
        config: the run configuration.

    """

    run_id: int
    bundle_digest: str
    config: dict[str, object]


class FleetClient:
    """An active connection of one node; several threads may use it."""

    def __init__(self, client: FleetHttpClient, node_id: int) -> None:
        self._client, self.node_id = client, node_id
        self._node = Node(node_id=node_id)

    def pull_message(self) -> PulledMessage | None:
        """Return the next message for this site, or None.

        Raises:
            ConnectionLostError: no response. A message in the lost response is delivered again after a reconnect.

        """
        response = send_request(self._client.PullMessages, PullMessagesRequest(node=self._node), attempts=1)
        if not response.messages_list:
            return None
        if not response.message_object_trees:
            raise ConnectionLostError("the server sent a message without its object tree")
        message: MessageProto = response.messages_list[0]
        metadata = message.metadata
        tree = response.message_object_trees[0]
        header = message.SerializeToString()
        return PulledMessage(metadata.run_id, header, tree, metadata.message_id, metadata.message_type)

    def get_run(self, run_id: int) -> RunInfo:
        """Return what the server knows about a run."""
        request = GetRunRequest(node=self._node, run_id=run_id)
        run = run_from_proto(send_request(self._client.GetRun, request).run)
        return RunInfo(run.run_id, run.fab_hash, dict(run.override_config))

    def pull_content(self, message: PulledMessage, max_bytes: int) -> EncodedMessage:
        """Pull a message's objects.

        Raises:
            FederationError: the message is larger than `max_bytes` or incomplete.

        """
        objects, size = dict[str, bytes](), 0
        with ThreadPoolExecutor(_PARALLEL_OBJECTS) as pool:
            for names in _split_into_batches(iter_object_ids(message.tree), _PARALLEL_OBJECTS):
                contents = list(pool.map(lambda name: self._pull_object(message.run_id, name), names))
                objects |= dict(zip(names, contents, strict=True))
                size += sum(map(len, contents))
                if size > max_bytes:
                    raise FederationError(f"A message is larger than {max_bytes} bytes.", "Raise incoming_megabytes.")
        return EncodedMessage(message.header, message.tree.SerializeToString(), objects)

    def confirm_message(self, message: PulledMessage) -> None:
        """Confirm that a message was received; the server then deletes its content."""
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=message.run_id, message_object_id=message.message_id
        )
        send_request(self._client.ConfirmMessageReceived, request)

    def push_reply(self, run_id: int, reply: EncodedMessage, seconds: float) -> None:
        """Push a reply; the lead sees it when all of its objects have arrived.

        Raises:
            ConnectionLostError: the reply is incomplete at the server; push it again from the start.
            RequestRefusedError: the server does not expect this reply.

        """
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[MessageProto.FromString(reply.header)],
            message_object_trees=[ObjectTree.FromString(reply.tree)],
            clientapp_runtime_list=[seconds],
        )
        response = send_request(self._client.PushMessages, request)

        def push_object(name: str) -> None:
            part = PushObjectRequest(
                node=self._node,
                run_id=run_id,
                object_id=name,
                object_content=reply.objects[name],
                session_id=response.session_id,
            )
            if not send_request(self._client.PushObject, part).stored:
                raise ConnectionLostError("the server no longer has the beginning of this reply")

        with ThreadPoolExecutor(_PARALLEL_OBJECTS) as pool:
            list(pool.map(push_object, response.objects_to_push))

    def send_heartbeat(self) -> bool:
        """Send a heartbeat; return whether the server accepted it."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        return bool(send_request(self._client.SendNodeHeartbeat, request).success)

    def _pull_object(self, run_id: int, name: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=name)
        for _ in range(_PULL_ATTEMPTS):
            response = send_request(self._client.PullObject, request)
            if not response.object_found:
                raise FederationError("A part of a message is not on the server.", "The lead will send it again.")
            if response.object_available:
                return bytes(response.object_content)
            time.sleep(_PULL_SECONDS)
        raise FederationError("A part of a message did not arrive at the server.", "The lead will send it again.")


@contextmanager
def connect_to_lead(
    address: str,
    ca: str,
    key: ec.EllipticCurvePrivateKey,
    describe_site: Callable[[], str] = str,
    proxy: Proxy | None = None,
) -> Iterator[FleetClient]:
    """Activate the node and send heartbeats in the background; deactivate it at the end so that it can restart at once.

    Args:
        address: host:port of the lead's server.
        ca: path of the certificate authority that must have signed the server's certificate.
        key: the node's private key.
        describe_site: returns what the site reports about its installation, see `SiteReport`.
        proxy: None for a direct connection.

    Raises:
        ConnectionLostError: the server is unreachable at present.
        TrustError: the server does not admit this node, or is not the lead's.

    """
    with create_http_client(address, ca, key, describe_site, proxy) as client:
        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )
        try:
            connection = FleetClient(client, send_request(client.ActivateNode, request).node_id)
        except RequestRefusedError as fault:
            raise TrustError(
                f"The lead's server does not admit this site ({fault}).",
                "The lead has not admitted this site's key, or the server has just started and admits its members"
                " within seconds.",
            ) from fault
        stop = threading.Event()
        heartbeats = threading.Thread(target=_send_heartbeats, args=(connection, stop), daemon=True, name="heartbeat")
        heartbeats.start()
        try:
            yield connection
        finally:
            stop.set()
            with suppress(ConnectionLostError, TrustError, httpx.HTTPError):
                client.DeactivateNode(DeactivateNodeRequest(node_id=connection.node_id))


def _send_heartbeats(connection: FleetClient, stop: threading.Event) -> None:
    """Send a heartbeat every third of the interval; ignore a failed one, as the next request will report the error."""
    while not stop.wait(HEARTBEAT_DEFAULT_INTERVAL / 3):
        try:
            connection.send_heartbeat()
        except (ConnectionLostError, TrustError):
            continue
        except RuntimeError:  # from httpx if the client was closed meanwhile, since closing does not wait for us
            if not stop.is_set():
                raise


def _split_into_batches(names: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield the names in lists of at most `size`."""
    rest = iter(names)
    while batch := list(islice(rest, size)):
        yield batch
