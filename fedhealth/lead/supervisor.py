"""The lead's background duties: SuperExec runs, orphaned runs are resumed, the registered nodes are the members."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from fedhealth.consortium.membership import SignedMembership
from fedhealth.errors import FedhealthError
from fedhealth.flower.server.superexec import SuperExec
from fedhealth.lead.home import LeadHome
from fedhealth.lead.run_recovery import RunRecovery

log = logging.getLogger("fedhealth.lead")

_POLL_SECONDS = 2.0
_FIRST_POLL_SECONDS = 0.2  # until the members are registered


class Supervisor:
    """Repeats the duties; one that fails is logged and tried again, and does not stop the others.

    Args:
        home: the lead's folder.
        superexec: the process that starts server applications.

    """

    def __init__(self, home: LeadHome, superexec: SuperExec) -> None:
        self._home, self._superexec, self._recovery = home, superexec, RunRecovery(home)
        self._registered: int | None = None  # modification time of the membership that the server has, ns
        self._problems: dict[str, str] = {}

    async def run(self) -> None:
        """Repeat the duties until cancelled."""
        while True:
            await asyncio.sleep(_FIRST_POLL_SECONDS if self._registered is None else _POLL_SECONDS)
            self.try_duty("SuperExec", self._superexec.ensure_running)
            self.try_duty("resuming orphaned runs", self._recovery.resume_orphaned_runs)
            await asyncio.to_thread(self.try_duty, "registering members", self._register_members)

    def try_duty(self, name: str, duty: Callable[[], Any]) -> None:
        """Call a duty; log its failure once, and log when it works again."""
        try:
            duty()
        except Exception as fault:
            problem = fault.problem if isinstance(fault, FedhealthError) else f"{type(fault).__name__}: {fault}"
            if self._problems.get(name) != problem:
                expected = isinstance(fault, (FedhealthError, OSError))
                text = "%s failed and is tried again every %g s: %s"
                log.error(text, name, _POLL_SECONDS, problem, exc_info=not expected)  # noqa: TRY400
            self._problems[name] = problem
        else:
            if self._problems.pop(name, None):
                log.info("%s works again", name)

    def _register_members(self) -> None:
        membership = self._home.membership
        changed = membership.stat().st_mtime_ns if membership.is_file() else None
        if changed not in (None, self._registered):
            _sync_members(self._home)
            self._registered = changed


def _sync_members(home: LeadHome) -> None:
    from fedhealth.flower.server.control_client import plan_node_changes
    from fedhealth.lead.connect_control import connect_control

    signed = SignedMembership.loads(home.membership.read_bytes())
    with connect_control(home) as control:
        missing, surplus = plan_node_changes(
            control.list_nodes(), [member.node for member in signed.membership.members]
        )
        for public in missing:
            control.register_node(public)
        for node in surplus:
            control.unregister_node(node)
    if missing or surplus:
        log.info("members: %d registered, %d unregistered", len(missing), len(surplus))
