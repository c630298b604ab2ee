"""Live progress in the terminal, read from the run's event file: the same for every runtime."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from fedhealth.data.findings import parse_findings
from fedhealth.runs.run_dir import RunDir

_POLL_SECONDS = 0.2


class ProgressDisplay:
    """Follow events.jsonl and print progress while a `with` block runs.

    Args:
        run: the run directory.
        console: where to print.

    """

    def __init__(self, run: RunDir, console: Console) -> None:
        self._run = run
        self._console = console
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._position = 0
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bars = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._rounds = 0

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._show_new_events()
        self._bars.stop()

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._show_new_events()

    def _show_new_events(self) -> None:
        events, self._position = self._run.read_events(self._position)
        for event in events:
            if show := getattr(self, f"_on_{event['event']}", None):
                show(event)

    def _bar(self, name: str, total: int | None, done: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[name], total=total, completed=done)

    def _on_private(self, event: dict[str, Any]) -> None:
        self._console.print(f"private: {event['text']}", markup=False, highlight=False, soft_wrap=True)

    def _on_caution(self, event: dict[str, Any]) -> None:
        self._console.print(f"[yellow]{escape(event['title'])}.[/] {escape(event['text'])}")

    def _on_preparing(self, event: dict[str, Any]) -> None:
        self._bar(f"Reading {escape(event['site'])}", event["total"] or None, event["done"])

    def _on_prepared(self, event: dict[str, Any]) -> None:
        if (task := self._tasks.pop(f"Reading {escape(event['site'])}", None)) is not None:
            self._bars.remove_task(task)
        counts = event["counts"]
        have = ", ".join(f"{name} {counts[name]}" for name in ("image", "text", "tabular", "unlabelled"))
        self._console.print(
            f"[bold]{escape(event['site'])}[/]: {counts['rows']} rows, {counts['patients']} patients ({have})"
        )
        for finding in parse_findings(event["findings"]):
            style = "bold red" if finding.serious else "yellow"
            self._console.print(f"  [{style}]{escape(finding.text)}[/]")

    def _on_handshake(self, event: dict[str, Any]) -> None:
        if event["reasons"]:
            text = f"{event['site']} declined: {'; '.join(event['reasons'])}. {event.get('fix', '')}"
            self._console.print(text.strip(), style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _on_started(self, event: dict[str, Any]) -> None:
        self._rounds = event["rounds"]

    def _on_round_started(self, event: dict[str, Any]) -> None:
        self._bar("Federated rounds", self._rounds, event["round"] - 1)

    def _on_round_completed(self, event: dict[str, Any]) -> None:
        self._bar("Federated rounds", self._rounds, event["round"])
        pooled = event["pooled"]
        auroc = pooled.get("validation", {}).get("auroc")
        parts = [f"loss {pooled['loss']:.3f}"] if "loss" in pooled else []
        parts += [f"incoming model's validation AUROC {auroc:.3f}"] if auroc is not None else []
        parts.append(f"{event['seconds']:.1f} s")
        self._console.print(f"round {event['round']}: {', '.join(parts)}")

    def _on_site_fault(self, event: dict[str, Any]) -> None:
        text = f"  {event['site']}: {event['problem']} {event['advice']}".rstrip()
        self._console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)

    def _on_selected(self, event: dict[str, Any]) -> None:
        score = "" if event["score"] is None else f" (validation AUROC {event['score']:.3f})"
        reason = f". {event['reason']}" if event["reason"] else ""
        self._console.print(f"exported: the model of round {event['round']}{score}{escape(reason)}", soft_wrap=True)

    def _on_site_failed(self, event: dict[str, Any]) -> None:
        self._console.print(
            f"  [red]{escape(event['site'])} left out of round {event['round']}: {escape(event['reason'])}[/]"
        )

    def _on_site_refused(self, event: dict[str, Any]) -> None:
        text = f"{event['site']} did not answer {event['question']}: {event['reason']}"
        self._console.print(f"  [yellow]{escape(text)}[/]")

    def _on_attempt_failed(self, event: dict[str, Any]) -> None:
        self._console.print(f"  [yellow]retrying round {event['round']}: {escape(event['reason'])}[/]")

    def _on_resumed(self, event: dict[str, Any]) -> None:
        self._console.print(f"[bold]resuming after round {event['round']}[/]")

    def _on_reopened(self, event: dict[str, Any]) -> None:
        self._console.print(f"  round {event['round']}: unmasking the interrupted sum")

    def _on_reused(self, event: dict[str, Any]) -> None:
        self._console.print(f"  round {event['round']}: going on with the opened sum on the disk")

    def _on_waiting(self, event: dict[str, Any]) -> None:
        hospitals = "hospital" if event["needed"] == 1 else "hospitals"
        missing = escape(", ".join(event["missing"]))
        self._console.print(f"[yellow]waiting for {event['needed']} more {hospitals}[/] (missing: {missing})")

    def _on_checkpoint_failed(self, event: dict[str, Any]) -> None:
        self._console.print(f"  [red]round {event['round']}: checkpoint not written: {escape(event['reason'])}[/]")

    def _on_tracked(self, event: dict[str, Any]) -> None:
        self._console.print(f"Tracked: {escape(event['where'])}", soft_wrap=True)

    def _on_tracking_failed(self, event: dict[str, Any]) -> None:
        self._console.print(f"[yellow]Tracking failed[/]; the run did not: {escape(event['reason'])}", soft_wrap=True)

    def _on_described(self, event: dict[str, Any]) -> None:
        for line in event["lines"]:
            self._console.print(line, markup=False, highlight=False)

    def _on_comparing(self, event: dict[str, Any]) -> None:
        self._bar("Comparison", event["total"], event["done"])

    def _on_compared(self, event: dict[str, Any]) -> None:
        for line in event["lines"]:
            self._console.print(line)
