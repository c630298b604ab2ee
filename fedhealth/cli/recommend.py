"""Implementation of `fedhealth recommend`."""

from __future__ import annotations

import shlex

from rich.console import Console

from fedhealth.cli.prompts import print_lines
from fedhealth.config.recommend import StudyFacts, recommend_overrides


def run_recommend(facts: StudyFacts) -> None:
    """Print overrides for `fedhealth run` with their reasons, and the command.

    Raises:
        ConfigError: the numbers describe no study.

    """
    console, found = Console(), recommend_overrides(facts)
    for each in found:
        shown = " ".join(map(shlex.quote, each.overrides)) or "(advice)"
        print_lines(console, f"{shown}\n    {each.reason}")
    overrides = [shlex.quote(override) for each in found for override in each.overrides]
    print_lines(console, f"\nfedhealth run data=NAME data.root=FOLDER {' '.join(overrides)}")
    print_lines(console, 'Measurements behind this: docs/researcher.md, "What to start with".')
