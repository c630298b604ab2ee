"""Changes to Flower's private state and behaviour, each with its reason; nothing else in this project patches Flower.

All other private interfaces of Flower that we use are imported in this package too, and docs/decisions/flower.md lists
them. `tests/fedhealth/flower/test_flower_seams.py` fails when one of them changes.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import time
from typing import Any

import httpx
from flwr.app import Message
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TASK_TYPE_TO_COMMAND
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.supercore.task_identity import TaskIdentity

CHECKED_FLOWER_RELEASE = "1.42"  # the Flower release that every patch and every private import was checked against

_PULL_BACKOFF_SECONDS = 0.05
_HTTP_SECONDS = 30.0  # for one HTTP request, as in Flower
_CLEANUP_SECONDS = 1.0  # between two clean-ups of expired task tokens


def shorten_pull_backoff() -> None:
    """Shorten the wait between two attempts to pull a reply's objects.

    Reason: Flower waits one second before the second attempt, so every reply would cost a second.
    """
    (pull_objects.__kwdefaults__ or {})["initial_backoff"] = _PULL_BACKOFF_SECONDS


def limit_token_cleanup(state: Any) -> None:
    """Make Flower's link state clean up expired task tokens at most once a second.

    Reason: Flower cleans up before every request, and the clean-up writes to the database: requests then wait for each
    other's lock, which was two thirds of a round's time. A token expires after half a minute, so a second more does not
    matter.
    """
    clean_up, next_due = state._cleanup_expired_task_tokens, 0.0

    def clean_up_when_due() -> None:
        nonlocal next_due
        if time.monotonic() >= next_due:
            next_due = time.monotonic() + _CLEANUP_SECONDS
            clean_up()

    state._cleanup_expired_task_tokens = clean_up_when_due


def set_task_identity(run_id: int, node_id: int, task_id: int = 1) -> None:
    """Set the run, node and task that Flower's messages take as their sender.

    Reason: Flower sets these process-wide values in its own worker processes only, and our workers are not Flower's.
    """
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, task_id


def set_message_id(message: Message, message_id: str) -> None:
    """Set a message's id.

    Reason: only Flower's SuperLink and its own grids give ids; the metadata has no public setter.
    """
    message.metadata.__dict__["_message_id"] = message_id


def restrict_http_client(client: Any, trusted: ssl.SSLContext | bool, proxy: httpx.Proxy | None, **hooks: Any) -> None:
    """Replace the connections of one of Flower's HTTP clients: our hooks, our proxy or none, no redirects.

    Reason: Flower reads responses of any size, follows redirects to any host, and takes proxies and passwords from the
    environment, also for addresses on this machine.

    Args:
        client: Flower's.
        trusted: the TLS settings.
        proxy: None for direct connections.
        hooks: functions that httpx calls, by the kind of event.

    """
    client._client.close()
    client._client = httpx.Client(
        verify=trusted,
        proxy=proxy,
        timeout=_HTTP_SECONDS,
        trust_env=False,
        follow_redirects=False,
        event_hooks={kind: [hook] for kind, hook in hooks.items()},
    )


def hide_task_tokens() -> None:
    """Make Flower's SuperExec pass each task's token to the server application in memory.

    Reason: Flower writes it on the command line, which every user of the machine can read; with it, one can send
    messages to the hospitals in the name of the run.
    """
    SubprocessExecutor.launch = _launch_task  # type: ignore[method-assign, assignment]


def _launch_task(executor: SubprocessExecutor, spec: ExecutionSpec) -> LaunchResult:
    """Do what `SubprocessExecutor.launch` does for a SuperLink on this machine, with the token in an anonymous file."""
    file = os.memfd_create("token")
    try:
        os.write(file, spec.token.encode())
        address = [TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type], spec.runtime_api_address]
        command = [TASK_TYPE_TO_COMMAND[spec.task_type], *address, "--token-file", f"/proc/self/fd/{file}"]
        command += ["--insecure"] if spec.insecure else []
        command += [] if spec.parent_pid is None else ["--parent-pid", str(spec.parent_pid)]
        output = subprocess.DEVNULL if spec.suppress_output else None
        subprocess.Popen(command, pass_fds=[file], stdout=output, stderr=output)  # noqa: S603 - Flower's own program
    finally:
        os.close(file)
    return LaunchResult.accepted()
