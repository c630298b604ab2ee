"""What a run of a study does with the data, in words: rounds, whom privacy protects and how, what leaves.

It follows from the resolved configuration alone, so that nobody has to read all settings before a decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import yaml

from fedhealth.config.compose import get_conf_dir
from fedhealth.config.open_paths import OpenPath
from fedhealth.utils.privacy_text import format_delta, format_unit

_HOLDS = "that holds while"
_SENT_CHANGE = "the change of the model by its training"
_SENT = {"gradient": "the gradient of one training step"}


def describe_run_terms(configuration: Mapping[str, Any], open_paths: Sequence[OpenPath]) -> Iterator[str]:
    """Yield the terms of one run.

    Args:
        configuration: the resolved settings of the study.
        open_paths: what its runs may vary; those values are named where they count.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a part is missing, or of another type.

    """
    terms = _RunTerms(configuration, {each.path: each for each in open_paths})
    yield f"  rounds     {terms.describe_rounds()}"
    yield f"  protects   {terms.describe_unit()}"
    yield from (f"  {name:10} {text}" for name, text in terms.describe_privacy())
    yield f"  sums       {terms.describe_sums()}"
    yield f"  leaves     {terms.describe_leaving()}"


class _RunTerms:
    """The settings of a run that a person decides on."""

    def __init__(self, configuration: Mapping[str, Any], open_paths: Mapping[str, OpenPath]) -> None:
        self._settings, self._open = configuration, open_paths
        self._privacy: Mapping[str, Any] = configuration["privacy"]
        self._sites = list(configuration["data"]["sites"])

    @property
    def _is_private(self) -> bool:
        return self._privacy.get("epsilon") is not None

    def describe_rounds(self) -> str:
        if self._settings["purpose"] == "describe":
            return "none: the patients are counted once, nothing is trained"
        rounds = self._list_values("strategy.rounds", int(self._settings["strategy"]["rounds"]))
        spare = self._list_values("privacy.spare_rounds", int(self._privacy.get("spare_rounds", 0)))
        return f"{rounds} in each run" + (f", and {spare} more where one fails" if spare != "0" else "")

    def describe_unit(self) -> str:
        if not self._is_private:
            return "nobody by noise: there is no differential privacy, and the model may memorize single patients"
        unit = str(self._privacy.get("unit", "client"))
        weaker = {"record": ": a patient with several studies is protected less", "client": ", not each patient"}
        return f"each {format_unit(unit)}{weaker.get(unit, '')} (unit {unit})"

    def describe_privacy(self) -> Iterator[tuple[str, str]]:
        if not self._is_private:
            return
        epsilon = self._list_values("privacy.epsilon", f"{float(self._privacy['epsilon']):g}")
        delta = self._list_values("privacy.delta", format_delta(float(self._privacy["delta"])))
        yield "one run", f"epsilon {epsilon} at delta {delta}, at most"
        yield "noise", self._describe_noise()

    def _describe_noise(self) -> str:
        chosen = self._find_choices("privacy.noise", self._privacy.get("noise"))
        if "shared" not in chosen:
            return "local: this hospital adds all noise itself, so epsilon holds whoever else colludes"
        rest = "" if set(chosen) == {"shared"} else " (or local, as a run chooses)"
        return (
            f"shared{rest}: the hospitals of a sum add it together; {_HOLDS} {self._describe_colluders()}. "
            "If all others did, only this hospital's own share would protect: its approval shows that epsilon"
        )

    def _describe_colluders(self) -> str:
        told = self._settings["secagg"].get("colluders")
        if told is None:
            return "fewer than a third of the consortium's members collude with the lead"
        count = self._list_values("secagg.colluders", int(told))
        return f"at most {count} of the consortium's members collude with the lead"

    def describe_sums(self) -> str:
        secagg = self._settings["secagg"]
        target = str(secagg["site"]["_target_"])
        if target == _read_installed_target("off"):
            return "secure aggregation is off: the lead reads this hospital's own update and counts"
        if target != _read_installed_target("on"):
            return f"by {target}, which is no part of fedhealth and decides what the lead reads"
        least = self._list_values("secagg.min_sites", int(secagg["min_sites"] or 1))
        return (
            f"secure aggregation is on: the lead reads only sums over at least {least} of {len(self._sites)} "
            f"hospitals; {_HOLDS} {self._describe_colluders()}"
        )

    def describe_leaving(self) -> str:
        """Return what a hospital sends, masked where sums are secure."""
        noise = ", with noise" if self._is_private else ""
        if self._settings["purpose"] == "describe":
            return f"counts of patients in public bins{noise}"
        sent = self._find_choices("training.sends", self._settings["training"]["sends"])
        change = " or ".join(dict.fromkeys(_SENT.get(str(each), _SENT_CHANGE) for each in sent))
        scores = f"histograms of the model's scores by class{self._describe_groups()}"
        if not self._is_private:
            counts = "numbers of rows, how labels, missing values, variables and updates differ between hospitals"
            return f"each round {change}, {counts}, and {scores}; at the end {scores}, also of held-out patients"
        has_scores = any(self._find_choices("privacy.score_release_share", self._privacy.get("score_release_share")))
        return f"each round {change}{noise}" + (f"; at the end {scores}{noise}" if has_scores else "")

    def _describe_groups(self) -> str:
        """Return by which groups of patients scores leave too, if by any."""
        share = self._find_choices("privacy.subgroup_release_share", self._privacy.get("subgroup_release_share"))
        groups = self._settings.get("evaluation", {}).get("subgroups") or {}
        may_vary = any(path.startswith("evaluation.subgroups") for path in self._open)
        if not (groups or may_vary) or (self._is_private and not any(share)):
            return ""
        return f", also of groups by {', '.join(groups)}" if groups and not may_vary else ", also of groups of patients"

    def _find_choices(self, path: str, value: object) -> list[Any]:
        """Return a setting's value, and those that a run may set instead.

        Raises:
            TypeError: one is a list or mapping, which this setting cannot have.

        """
        found = self._open.get(path)
        return list(dict.fromkeys([value, *(found.values if found else ())]))

    def _list_values(self, path: str, value: object) -> str:
        """Return a value, with those that a run may set instead."""
        found = self._open.get(path)
        others = [f"{each:g}" if isinstance(each, float) else str(each) for each in found.values] if found else []
        return f"{value} (a run may set {', '.join(dict.fromkeys(others))})" if others else str(value)


@lru_cache
def _read_installed_target(option: str) -> str:
    """Return the class by which a site takes part, of an option of `secagg`; a study's own classes are not loaded."""
    settings = yaml.safe_load((get_conf_dir() / "secagg" / f"{option}.yaml").read_text("utf-8"))
    return str(settings["site"]["_target_"])
