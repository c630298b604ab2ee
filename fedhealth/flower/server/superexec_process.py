"""The SuperExec process: Flower's own program after `hide_task_tokens`; the lead's server starts it."""

from __future__ import annotations

from flwr.supercore.cli import flower_superexec

from fedhealth.flower.compat import hide_task_tokens

if __name__ == "__main__":
    hide_task_tokens()
    flower_superexec()
