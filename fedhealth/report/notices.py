"""Warnings and notes of the report: each function checks one condition of a run and yields a notice if it applies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from fedhealth.config import warnings
from fedhealth.config.warnings import FEWEST_SITES, LARGE_EPSILON
from fedhealth.privacy.accounting.spending import HIGH_SPENDING_SHARE
from fedhealth.report.groups import describe_gap
from fedhealth.report.page import Notice
from fedhealth.report.quality_notices import (
    compare_with_centralised,
    warn_fusion_loses,
    warn_hidden_by_noise,
    warn_modalities_without_gain,
    warn_no_better_than_chance,
    warn_no_gain_over_local,
    warn_poor_calibration,
)
from fedhealth.report.site_gains import warn_losing_sites, warn_weak_baselines
from fedhealth.report.verdict import Verdict, judge_gain
from fedhealth.report.wording import format_count, format_duration, format_percent, join_words
from fedhealth.runs.guarantee import get_promised_guarantee, get_spent_guarantee
from fedhealth.runs.record import RunRecord, compute_traffic_per_site
from fedhealth.utils.privacy_text import format_epsilon, format_guarantee, format_noise_multiplier, format_unit

LARGEST_SHARE = 0.6
LINE = 20e6  # bits per second: a common upload bandwidth of hospitals


def collect_notices(run: RunRecord) -> tuple[Notice, ...]:
    """Return every notice that applies, serious ones first."""
    notices = [notice for rule in RULES for notice in rule(run)]
    return tuple(sorted(notices, key=lambda notice: not notice.serious))


def warn_unfinished_run(run: RunRecord) -> Iterator[Notice]:
    """Warn that a run failed, was stopped, or has no final evaluation."""
    state = run.info.state
    if state in ("failed", "stopped"):
        problem = run.info.fault.problem
        yield Notice(
            f"This run {'failed' if state == 'failed' else 'was stopped'}", problem or "No reason is recorded."
        )
    elif not run.evaluation:
        yield Notice("There is no final evaluation", "All results below are from the training rounds only.")


def warn_unprotected_settings(run: RunRecord) -> Iterator[Notice]:
    """Repeat the warnings that were given about the configuration before the run."""
    for title, text in warnings.warn_unprotected(run.capabilities) if run.capabilities else ():
        yield Notice(title, text)


def warn_no_differential_privacy(run: RunRecord) -> Iterator[Notice]:
    """Warn that nothing limits what the model reveals about a single patient."""
    if run.is_private is False:
        yield Notice(
            "No differential privacy",
            "The model may memorise single patients. Do not share it with anyone who may not see the training data.",
        )


def warn_weak_privacy(run: RunRecord) -> Iterator[Notice]:
    """Warn that a large epsilon gives little protection."""
    found = get_spent_guarantee(run) or (get_promised_guarantee(run) if run.is_private else None)
    if found and found.epsilon > LARGE_EPSILON:
        title = f"{format_epsilon(found.epsilon, found.delta).capitalize()} gives little protection"
        yield Notice(
            title,
            f"It protects each {format_unit(found.unit)} (noise multiplier "
            f"{format_noise_multiplier(found.noise_multiplier)}). Above {LARGE_EPSILON:g}, the guarantee alone hardly "
            "limits what can be learned about a single patient.",
        )


def warn_budget_nearly_spent(run: RunRecord) -> Iterator[Notice]:
    """Warn that little is left of a data set's lifetime budget, or of the budget of a run that can be resumed."""
    life = run.get_setting("privacy.lifetime_epsilon")
    for each in run.totals:
        if life and each.epsilon >= HIGH_SPENDING_SHARE * life:
            spent = format_guarantee(each.epsilon, each.delta, each.noise_multiplier, each.unit)
            text = f"All runs on {each.dataset} together spent {spent} or more. The limit is {life:g}"
            yield Notice(f"{each.site} has little privacy budget left", f"{text}: further runs may be declined.")
    if run.info.state not in ("failed", "stopped"):
        return  # a completed run may have spent its whole budget
    for part in run.spending:
        if part.target and part.epsilon >= HIGH_SPENDING_SHARE * part.target:
            spent = format_guarantee(part.epsilon, part.delta, part.noise_multiplier, part.unit)
            text = f"It spent {spent}. This run may spend {part.target:g}: further rounds may be declined."
            yield Notice(f"{part.site} has little budget left for this run", text)


def warn_no_secure_aggregation(run: RunRecord) -> Iterator[Notice]:
    """Warn that the lead saw the updates of single hospitals."""
    if run.has_secure_aggregation is False:
        yield Notice(
            "No secure aggregation",
            "The lead saw each hospital's own model update, counts and validation scores. Updates can reveal data.",
        )


def warn_few_sites(run: RunRecord) -> Iterator[Notice]:
    """Warn that a sum over very few sites protects little."""
    sites = len(run.participating_sites)
    if run.rounds and sites < FEWEST_SITES:
        yield Notice(
            f"Only {format_count(sites, 'hospital')} took part",
            f"With fewer than {FEWEST_SITES}, a participant can work out what the others contributed from the sum.",
        )


def warn_dominating_site(run: RunRecord) -> Iterator[Notice]:
    """Warn that one site has most of the training examples."""
    examples = count_training_examples(run)
    total = sum(examples.values())
    for site, count in examples.items():
        if len(examples) > 1 and count > LARGEST_SHARE * total:
            share = format_percent(count / total)
            text = f"It has {share} of the training examples, so the shared model mostly reflects its data."
            yield Notice(f"{site} dominates", text)


def warn_unequal_groups(run: RunRecord) -> Iterator[Notice]:
    """Warn that the model works worse for some groups of patients."""
    for each in run.groupings:
        if judge_gain(each.gap) is Verdict.better:
            yield Notice(f"The model does not work equally well for all groups by {each.variable}", describe_gap(each))


def warn_missed_rounds(run: RunRecord) -> Iterator[Notice]:
    """Warn about sites that missed rounds, missed the final evaluation, or declined."""
    for site in run.sites:
        if missed := run.list_missed_rounds(site.name):
            numbers = join_words([str(each.number) for each in missed])
            reasons = "; ".join(dict.fromkeys(filter(None, (each.failures[site.name] for each in missed))))
            where = f"Missing in {'round' if len(missed) == 1 else 'rounds'} {numbers}"
            text = _add_full_stop(f"{where}: {reasons}" if reasons else where)
            yield Notice(f"{site.name} missed {format_count(len(missed), 'round')}", text)
        if run.final and site.name in run.final.failures:
            reason = _add_full_stop(run.final.failures[site.name])
            yield Notice(f"{site.name} is missing from the final evaluation", reason or "No reason is recorded.")
        if site.declined:
            yield Notice(f"{site.name} declined", _add_full_stop("; ".join(site.declined)))


def repeat_data_findings(run: RunRecord) -> Iterator[Notice]:
    """Repeat what was found in the data: one class only, implausible counts, constant columns, rejected files."""
    for site in run.sites:
        if serious := " ".join(_add_full_stop(each.text) for each in site.findings if each.serious):
            yield Notice(f"Data of {site.name} may be wrong", serious)
        if text := " ".join(_add_full_stop(each.text) for each in site.findings if not each.serious):
            yield Notice(f"Data of {site.name}", text, serious=False)


def warn_untested_sites(run: RunRecord) -> Iterator[Notice]:
    """Report sites without a test result of their own, if the lead may see the sites' own results."""
    own = (
        {reply.site: reply.own_results.get("test") for reply in run.final.replies if reply.own_results}
        if run.final
        else {}
    )
    untested = [site for site, scores in own.items() if scores is not None and scores.get("auroc") is None]
    if untested and run.test_result and not math.isnan(run.test_result.metrics["auroc"].value):
        text = "They have too few test rows or only one class: the pooled result says nothing about these hospitals."
        yield Notice(f"No separate test result for {join_words(untested)}", text, serious=False)


def warn_rehearsal(run: RunRecord) -> Iterator[Notice]:
    """Note that all data were on one machine."""
    if run.rounds and run.capabilities and run.has_local_data:
        text = "All data were on one machine, so the times say nothing about a network. "
        for _, advice in warnings.warn_local_data(run.capabilities):
            text += advice.removeprefix("Good for a rehearsal. ")
        if run.has_exact_results:
            text += (
                " Test results, baselines and counts are exact: they were computed without noise from all data. The "
                "members of a private consortium would not see them."
            )
        yield Notice("A rehearsal", text, serious=False)


def warn_heavy_traffic(run: RunRecord) -> Iterator[Notice]:
    """Warn that transferring the model takes longer than training it; times of a rehearsal include no transport."""
    down, up = compute_traffic_per_site(run)
    seconds = sum(each.seconds for each in run.rounds if not math.isnan(each.seconds))
    line = (down + up) * 8 / LINE
    if run.rounds and 0 < seconds < (line if run.has_local_data else 2 * line):
        yield Notice(
            "More communication than training",
            f"At {LINE / 1e6:.0f} Mbit/s a hospital's traffic takes {format_duration(line)}, which is longer than its "
            "training. Try more training.local_steps with fewer rounds, secagg.bits=16, or adapters (model/text=lora).",
            serious=False,
        )


def count_training_examples(run: RunRecord) -> dict[str, int]:
    """Return training rows by site: as read on this machine, otherwise as reported, if the lead may see that."""
    read = {site.name: site.counts["train"] for site in run.sites if "train" in site.counts}
    reported = {
        reply.site: int(reply.own_results["examples"])
        for each in run.rounds
        for reply in each.replies
        if reply.own_results and "examples" in reply.own_results
    }
    return read or reported


def _add_full_stop(text: str) -> str:
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


RULES: tuple[Callable[[RunRecord], Iterator[Notice]], ...] = (
    warn_unfinished_run,
    warn_no_better_than_chance,
    warn_hidden_by_noise,
    warn_fusion_loses,
    warn_losing_sites,
    warn_weak_baselines,
    warn_unprotected_settings,
    warn_no_differential_privacy,
    warn_weak_privacy,
    warn_budget_nearly_spent,
    warn_no_secure_aggregation,
    warn_few_sites,
    warn_no_gain_over_local,
    compare_with_centralised,
    warn_modalities_without_gain,
    warn_dominating_site,
    warn_unequal_groups,
    warn_poor_calibration,
    warn_missed_rounds,
    repeat_data_findings,
    warn_untested_sites,
    warn_rehearsal,
    warn_heavy_traffic,
)
