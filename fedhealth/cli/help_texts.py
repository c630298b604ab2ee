"""What --help prints beside the docstrings: the help of arguments, and examples that use every argument and option."""

from __future__ import annotations

from typing import Any

import typer
import typer.main
from typer.core import TyperArgument

_SITE, _LEAD = "--home /var/lib/fedhealth", "--home /var/lib/fedhealth-lead"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("demo --folder outputs/demo --seed 7 privacy.epsilon=3",),
    "poc": ("poc --folder outputs/poc --sites 4 --no-stay strategy.rounds=2",),
    "doctor": ("doctor --json",),
    "verify": ("verify fedhealth-0.2.0-release.tar.gz --key fedhealth.pub",),
    "recommend": (
        "recommend --patients 400 --sites 4 --modalities text,image --epsilon 8 --text-encoder minilm",
        "recommend --patients 400 --sites 4 --modalities image --image-encoder vit",
        "recommend --patients 400 --sites 4 --modalities image --image-weights mobilenet_v2.safetensors",
    ),
    "run": (
        "run experiment=derm data.root=/srv/derm training.optimizer.lr=0.001",
        "run resume=outputs/2026-03-01/12-00-00",
    ),
    "stats": ("stats experiment=derm data.root=/srv/derm",),
    "watch": ("watch outputs/2026-03-01/12-00-00",),
    "status": ("status 3f2a --json",),
    "compare": ("compare outputs/a outputs/b --to outputs/comparison", "compare multirun/2026-03-01/12-00-00 --json"),
    "predict": (
        "predict outputs/a/model --image chest.dcm --note @note.txt --value age=67",
        "predict outputs/a/model --own outputs/a/sites/charite/personal.safetensors --table new.csv --to scores.csv",
        "predict pneumonia/model --calibration calibration.safetensors --risk 0.05 --image chest.dcm --note @note.txt",
        "predict outputs/a/model --config-dir conf --value age=67",
    ),
    "audit": ("audit quick experiment=demo privacy=patient data.root=outputs/demo/hospitals",),
    "data propose": ("data propose manifest.csv --out heart.yaml",),
    "site init": (f"site init --name charite --lead lead.example:9092 {_SITE}",),
    "site install": (f"site install charite.zip --fingerprint 1a2b-3c4d-5e6f {_SITE}",),
    "site setup": ("site setup setup.yaml", "site setup setup.yaml --kit charite.zip --fingerprint 1a2b-3c4d-5e6f"),
    "site check": (f"site check pneumonia --json {_SITE}",),
    "site ingest": (
        "site ingest ingest.yaml data.max_rejected=0.1 --out /srv/ward-7 --workers 4 --json",
        f"site ingest /srv/dicom reports.csv --propose --data chest {_SITE}",
        f"site ingest ingest.yaml --out /srv/ward-7 --add {_SITE}",
        "site ingest ingest.yaml --show-requests",
    ),
    "site start": (f"site start {_SITE}",),
    "site status": (f"site status --json {_SITE}",),
    "site metrics": (f"site metrics --port 9464 {_SITE}",),
    "site web": (f"site web --port 8765 --read-only {_SITE}",),
    "site passphrase": (f"site passphrase {_SITE}",),
    "site stop": (f"site stop {_SITE}",),
    "site pause": (f"site pause {_SITE}",),
    "site resume": (f"site resume {_SITE}",),
    "site recover": (f"site recover --yes {_SITE}",),
    "site calibrate": (f"site calibrate /srv/models/pneumonia --to calibration.safetensors {_SITE}",),
    "site compare": (f"site compare /srv/models/pneumonia --json {_SITE}",),
    "site leave": (f"site leave --yes {_SITE}",),
    "site budget": (f"site budget --delta 1e-6 --verify --json {_SITE}", "site budget outputs/2026-03-01/12-00-00"),
    "site audit verify": (f"site audit verify {_SITE}",),
    "site audit show": (f"site audit show --last 50 --json {_SITE}",),
    "site audit export": (f"site audit export audit.json {_SITE}",),
    "site data purge": ("site data purge ingest.yaml data.max_rejected=0.1 --out /srv/ward-7",),
    "site data cache": (f"site data cache --json {_SITE}", "site data cache --purge"),
    "site runs list": (f"site runs list --json {_SITE}",),
    "site runs show": (f"site runs show 3f2a --json --to run.html {_SITE}",),
    "site runs export": (f"site runs export register.csv {_SITE}",),
    "site study show": (f"site study show pneumonia-v1.study.json --settings {_SITE}", "site study show --json"),
    "site study approve": (f"site study approve pneumonia-v1.study.json --by 'Dr Example' --yes 3f9a12bc77d0 {_SITE}",),
    "site study decline": (f"site study decline pneumonia --reason permit --note late --by 'Dr Example' {_SITE}",),
    "site study withdraw": (f"site study withdraw pneumonia --reason data --note moved --by 'Dr Example' {_SITE}",),
    "lead provision": (f"lead provision project.yaml {_LEAD}",),
    "lead admit": (f"lead admit charite.json --fingerprint 1a2b-3c4d-5e6f {_LEAD}",),
    "lead members": (f"lead members --json {_LEAD}",),
    "lead revoke": (f"lead revoke charite --yes {_LEAD}",),
    "lead renew": (f"lead renew --ca {_LEAD}",),
    "lead rotate": (f"lead rotate {_LEAD}",),
    "lead serve": (f"lead serve {_LEAD}",),
    "lead sites": (f"lead sites --json {_LEAD}",),
    "lead runs": (f"lead runs --json {_LEAD}",),
    "lead metrics": (f"lead metrics --port 9465 {_LEAD}",),
    "lead web": (f"lead web --port 8766 {_LEAD}",),
    "lead stop": (f"lead stop 3f2a {_LEAD}",),
    "lead logs": (f"lead logs 3f2a {_LEAD}",),
    "lead study new": ("lead study new pneumonia experiment=demo privacy=patient --to study.yaml",),
    "lead study publish": (f"lead study publish study.yaml --config-dir conf {_LEAD}",),
    "lead study status": (f"lead study status pneumonia --json {_LEAD}",),
    "lead study close": (f"lead study close pneumonia {_LEAD}",),
}


class _DescribedArgument(TyperArgument):
    """An argument that keeps its help text: click 8.5 overwrites it in the typer that flwr 1.42 pins."""

    def __init__(self, *, help: str | None = None, **others: Any) -> None:
        super().__init__(help=help, **others)
        self.help = help


def complete_help(app: typer.Typer) -> None:
    """Make --help of every command show the help of its arguments, and examples."""
    vars(typer.main)["TyperArgument"] = _DescribedArgument
    _add_examples(app, "")


def _add_examples(app: typer.Typer, path: str) -> None:
    """Add examples to the commands of an application; `path` is the words before its own, with a blank after each."""
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        lines = [f"Example: fedhealth {example}" for example in EXAMPLES.get(f"{path}{name}", ())]
        command.epilog = "\n\n".join(lines)  # a paragraph each: Typer joins the lines of one
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _add_examples(group.typer_instance, f"{path}{group.name} ")
