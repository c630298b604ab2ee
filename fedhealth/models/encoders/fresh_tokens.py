"""Compare an own tokenizer's tokens with those of a fresh interpreter: they must be the same at every site, every day.

Python's `hash()` of a text, and the order of a set of texts, differ in every process. A model that is trained on such
tokens is worthless in the next process, and nothing else shows it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fedhealth.config.instantiate import instantiate
from fedhealth.errors import FedhealthError, ModelError
from fedhealth.models.encoders.checks import tokenize_texts
from fedhealth.utils.own_code import is_own, name_part

TEXTS = ["short of breath, oxygen given", "no fever", "Größe 180 cm; CRP 12.5 mg/l", "short of breath"]
_SECONDS = 300
_ADVICE = "Tokens must be the same in every process and at every site: use hashlib, not `hash()`, and sort sets."


def check_fresh_tokens(node: Mapping[str, Any], encoder: nn.Module, seed: int) -> None:
    """Refuse an own encoder whose tokens differ in a process with another hash seed; ours are not checked.

    Args:
        node: of the encoder in the configuration, plain values.
        encoder: built from it.
        seed: of its first weights.

    Raises:
        ModelError: the tokens differ, or a fresh process cannot build the encoder.

    """
    if not is_own(encoder) or str(node["_target_"]).startswith("__main__."):  # a notebook's cell is nowhere else
        return
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", __name__]
    question = json.dumps({"node": dict(node), "seed": seed})
    done = subprocess.run(  # noqa: S603 - this interpreter and this module
        command, input=question, capture_output=True, text=True, env=environment, timeout=_SECONDS, check=False
    )
    name = name_part(encoder)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"model.text: a fresh Python process cannot use {name}: {reason}", _ADVICE)
    if json.loads(done.stdout.splitlines()[-1]) != tokenize_texts(encoder, TEXTS).tolist():
        raise ModelError(f"model.text: `tokenize` of {name} returns other numbers in another process.", _ADVICE)


def print_tokens() -> None:
    """Build the encoder of the question on standard input, and print its tokens."""
    question = json.load(sys.stdin)
    torch.manual_seed(question["seed"])
    try:
        tokens = tokenize_texts(instantiate(question["node"]), TEXTS)
    except FedhealthError as fault:
        raise SystemExit(fault.problem) from None
    sys.stdout.write(f"\n{json.dumps(tokens.tolist())}\n")


if __name__ == "__main__":
    print_tokens()
