"""Honest warnings: each is one small function from a run to what its reader must not overlook."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from fedhealth.config import warnings
from fedhealth.config.warnings import FEWEST_SITES, LARGE_EPSILON
from fedhealth.privacy.accounting.spending import MUCH
from fedhealth.report.groups import unequal
from fedhealth.report.page import Notice
from fedhealth.report.verdict import Verdict, alone, alone_on_average, modalities, verdict
from fedhealth.report.wording import counted, duration, interval, listed, percent
from fedhealth.runs.record import CENTRALISED, Run, traffic_per_site

LARGEST_SHARE = 0.6
LARGEST_ERROR = 0.1  # of stated probabilities, before it is said
LINE = 20e6  # bits a second: what many hospitals' outgoing lines give


def notices(run: Run) -> tuple[Notice, ...]:
    """Return everything that applies, the serious first."""
    found = [notice for rule in RULES for notice in rule(run)]
    return tuple(sorted(found, key=lambda notice: not notice.serious))


def unfinished(run: Run) -> Iterator[Notice]:
    """Say that a run failed, was stopped, or has no final evaluation."""
    state = run.about.get("state")
    if state in ("failed", "stopped"):
        problem = str((run.about.get("error") or {}).get("problem", ""))
        yield Notice(
            f"This run {'failed' if state == 'failed' else 'was stopped'}", problem or "No reason is on record."
        )
    elif not run.evaluation:
        yield Notice("There is no final evaluation", "What is shown below comes from training alone.")


def settings(run: Run) -> Iterator[Notice]:
    """Repeat what was said of the configuration before the run."""
    for title, text in warnings.unprotected(run.config):
        yield Notice(title, text)


def no_differential_privacy(run: Run) -> Iterator[Notice]:
    """Say that nothing bounds what the model tells about one patient."""
    if run.protected("privacy") is False:
        yield Notice(
            "No differential privacy",
            "The model may remember single patients. Do not give it to anyone who may not see the training data.",
        )


def weak_privacy(run: Run) -> Iterator[Notice]:
    """Say that so large an epsilon bounds little."""
    asked = run.setting("privacy.epsilon") if run.protected("privacy") else None
    spent = [each.epsilon for each in run.spending] or ([float(asked)] if asked is not None else [])
    if spent and max(spent) > LARGE_EPSILON:
        yield Notice(
            f"Epsilon {max(spent):.3g} promises little",
            f"Above {LARGE_EPSILON:g}, the guarantee alone hardly limits what can be learned about one patient.",
        )


def budget_nearly_spent(run: Run) -> Iterator[Notice]:
    """Say where little is left: of a data set's budget for life, or of the budget of a run that is to go on."""
    life = run.setting("privacy.life_epsilon")
    for each in run.totals:
        if life and each.epsilon >= MUCH * life:
            spent = f"All runs on {each.dataset} together spent epsilon {each.epsilon:.2f} of {life:g}"
            yield Notice(f"{each.site} has little privacy budget left", f"{spent}: further runs may be declined.")
    if run.about.get("state") not in ("failed", "stopped"):
        return  # a run that ended as planned has spent what it was allowed to
    for part in run.spending:
        if part.target and part.epsilon >= MUCH * part.target:
            spent = f"It spent epsilon {part.epsilon:.2f} of the {part.target:g} that this run may spend"
            yield Notice(
                f"{part.site} can hardly go on with this run", f"{spent}: rounds still to come may be declined."
            )


def no_secure_aggregation(run: Run) -> Iterator[Notice]:
    """Say that the lead saw single updates."""
    if run.protected("secagg.lead") is False:
        yield Notice(
            "No secure aggregation",
            "The lead saw each hospital's own model update, counts and validation scores. Updates can reveal data.",
        )


def few_sites(run: Run) -> Iterator[Notice]:
    """Say that a sum over very few sites hides little."""
    sites = len(run.taking_part)
    if run.rounds and sites < FEWEST_SITES:
        yield Notice(
            f"Only {counted(sites, 'hospital')} took part",
            f"With fewer than {FEWEST_SITES}, a participant can work out what the others contributed from the sum.",
        )


def gain_over_alone(run: Run) -> Iterator[Notice]:
    """Say where federating is not shown to be worth it."""
    average = alone_on_average(run.comparison) if run.comparison else None
    if run.comparison is None or average is None:
        return
    if verdict(average.gain) is Verdict.worse:
        yield Notice(
            "Federating did worse than training alone", f"On average it changes by {interval(average.gain, True)}."
        )
    elif verdict(average.gain) is not Verdict.better:
        yield Notice(
            "The gain over training alone is not significant",
            f"On average it is {interval(average.gain, sign=True)}: chance alone could explain it.",
        )
    unclear = [
        gain.name.removeprefix("alone ") for gain in alone(run.comparison) if verdict(gain.gain) is not Verdict.better
    ]
    if unclear and verdict(average.gain) is Verdict.better:
        text = "The shared model is not shown to be better than the model trained there alone."
        yield Notice(f"No significant gain over {listed(unclear)}", text, serious=False)


def against_centralised(run: Run) -> Iterator[Notice]:
    """Say how far the federation is from pooling the data."""
    gain = run.comparison.gains.get(CENTRALISED) if run.comparison else None
    if gain is None:
        return
    amount = interval(gain.gain, sign=True)
    match verdict(gain.gain):
        case Verdict.worse:
            text = f"Federating costs {amount} against one model trained on all data in one place."
            yield Notice("Pooling the data would do better", text)
        case Verdict.unclear:
            text = f"The difference to one model trained on all data in one place is {amount}."
            yield Notice("No clear difference to pooling the data", text, serious=False)
        case Verdict.better:
            text = (
                f"The shared model is ahead by {amount}. The pooled training used the same settings and number of "
                "steps and was not tuned further: read it as a reference, not as the best that pooling can do."
            )
            yield Notice("Federating beats pooling the data here", text, serious=False)


def poorly_calibrated(run: Run) -> Iterator[Notice]:
    """Say that the numbers are no risks."""
    found = run.test.metrics.get("calibration_error") if run.test else None
    if found and found.low > LARGEST_ERROR:
        yield Notice(
            "The scores are no risks",
            f"Stated probabilities are off by {interval(found)} on average. The model ranks patients; calibrate it "
            "before anybody reads a score as a probability.",
            serious=False,
        )


def modalities_without_gain(run: Run) -> Iterator[Notice]:
    """Say which single modality does as well as all of them together."""
    rivals = modalities(run.comparison) if run.comparison else []
    equal = [gain.name.removesuffix(" only") for gain in rivals if verdict(gain.gain) is not Verdict.better]
    if equal:
        text = "The model that uses everything is not shown to be better."
        yield Notice(f"{listed(equal).capitalize()} alone may be enough", text, serious=False)


def dominating_site(run: Run) -> Iterator[Notice]:
    """Say that one site has most of the training examples."""
    examples = training_examples(run)
    total = sum(examples.values())
    for site, count in examples.items():
        if len(examples) > 1 and count > LARGEST_SHARE * total:
            text = f"It has {percent(count / total)} of the training examples: the shared model is mostly its model."
            yield Notice(f"{site} dominates", text)


def unequal_groups(run: Run) -> Iterator[Notice]:
    """Say which groups of patients the model serves worse."""
    for each in run.groupings:
        if verdict(each.gap) is Verdict.better:
            yield Notice(f"Patients differ by {each.variable} in how well the model works", unequal(each))


def missed_rounds(run: Run) -> Iterator[Notice]:
    """Say who did not contribute."""
    for site in run.sites:
        if missed := run.missed(site.name):
            numbers = listed([str(each.number) for each in missed])
            reasons = "; ".join(dict.fromkeys(filter(None, (each.failures[site.name] for each in missed))))
            where = f"Missing in {'round' if len(missed) == 1 else 'rounds'} {numbers}"
            text = _ended(f"{where}: {reasons}" if reasons else where)
            yield Notice(f"{site.name} missed {counted(len(missed), 'round')}", text)
        if run.final and site.name in run.final.failures:
            reason = _ended(run.final.failures[site.name])
            yield Notice(f"{site.name} is missing from the final evaluation", reason or "No reason is on record.")
        if site.declined:
            yield Notice(f"{site.name} declined", _ended("; ".join(site.declined)))


def data_warnings(run: Run) -> Iterator[Notice]:
    """Repeat what reading the data found: one class only, constant columns, files that were set aside."""
    for site in run.sites:
        said = [warning.removeprefix(f"{site.name}: ") for warning in site.warnings]
        if said:
            text = " ".join(_ended(f"{warning[:1].upper()}{warning[1:]}") for warning in said)
            yield Notice(f"Data of {site.name}", text, serious=False)


def untested_sites(run: Run) -> Iterator[Notice]:
    """Say at which sites the final model could not be judged, where their own results may be seen."""
    own = {answer.site: answer.own.get("test") for answer in run.final.answers if answer.own} if run.final else {}
    blind = [site for site, scores in own.items() if scores is not None and scores.get("auroc") is None]
    if blind and run.test and not math.isnan(run.test.metrics["auroc"].value):
        text = "Their test rows are too few or of one class: the pooled result says nothing about these hospitals."
        yield Notice(f"No test result of its own for {listed(blind)}", text, serious=False)


def rehearsal(run: Run) -> Iterator[Notice]:
    """Say that no data was apart."""
    if run.rounds and str(run.setting("runtime._target_", "")).startswith("fedhealth.runtime.local."):
        text = "All data lay on one machine: the times say nothing about a network. "
        for _, advice in warnings.everything_here(run.config):
            text += advice.removeprefix("Good for a rehearsal. ")
        yield Notice("A rehearsal", text, serious=False)


def heavy_traffic(run: Run) -> Iterator[Notice]:
    """Say that moving the model takes longer than training it; a rehearsal's times hold no transport."""
    down, up = traffic_per_site(run)
    seconds = sum(each.seconds for each in run.rounds if not math.isnan(each.seconds))
    line = (down + up) * 8 / LINE
    here = str(run.setting("runtime._target_", "")).startswith("fedhealth.runtime.local.")
    if run.rounds and 0 < seconds < (line if here else 2 * line):
        yield Notice(
            "More communication than training",
            f"On a line of {LINE / 1e6:.0f} Mbit/s a hospital's traffic takes {duration(line)}, its training less. "
            "Try more training.local_steps with fewer rounds, secagg.bits=16, or adapters (model/text=lora).",
            serious=False,
        )


def training_examples(run: Run) -> dict[str, int]:
    """Return training rows by site: as read, or (elsewhere) as the sites report them where the lead may see that."""
    read = {site.name: site.counts["train"] for site in run.sites if "train" in site.counts}
    reported = {
        answer.site: int(answer.own["examples"])
        for each in run.rounds
        for answer in each.answers
        if answer.own and "examples" in answer.own
    }
    return read or reported


def _ended(text: str) -> str:
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


RULES: tuple[Callable[[Run], Iterator[Notice]], ...] = (
    unfinished,
    settings,
    no_differential_privacy,
    weak_privacy,
    budget_nearly_spent,
    no_secure_aggregation,
    few_sites,
    gain_over_alone,
    against_centralised,
    modalities_without_gain,
    dominating_site,
    unequal_groups,
    poorly_calibrated,
    missed_rounds,
    data_warnings,
    untested_sites,
    rehearsal,
    heavy_traffic,
)
