"""A run's record in words, for people who decide, audit or keep the register of processing activities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from fedhealth.consortium.study_text import describe_budget
from fedhealth.privacy.accounting.spending import RunSpending
from fedhealth.protocol.messages import ABANDON, DESCRIBE, EVALUATE, HANDSHAKE, SIGN, TRAIN, UNMASK
from fedhealth.site.run_history import SiteRunRecord
from fedhealth.utils.privacy_text import format_guarantee, format_local_epsilon
from fedhealth.utils.time_text import format_time

OWN_GAIN_FILE = "own_gain.json"  # in a run's folder at the hospital: what `fedhealth site compare` found
Fact = tuple[str, str]
_KINDS = {
    HANDSHAKE: "to join",
    TRAIN: "to train",
    EVALUATE: "to evaluate",
    DESCRIBE: "for statistics",
    SIGN: "to sign a list of survivors",
    UNMASK: "to open a sum",
    ABANDON: "to give up a sum",
}
_OUTCOMES = {
    "ended": "ended; by whom is not recorded",
    "ended by lead": "ended by the lead",
    "ended by expiry": "ended by this hospital: the time of limits.hours had passed",
    "ended by recovery": "ended by this hospital: it was restored from a backup",
    "open": "not ended by the lead yet",
    "declined": "declined by this hospital",
}
_WHAT_THE_LEAD_READS = {
    True: "this hospital's own updates and statistics (no secure aggregation)",
    False: "sums over the hospitals, not this hospital's own replies (secure aggregation)",
    None: "not recorded whether sums over the hospitals or this hospital's own replies",
}
_MODALITIES = {"image": "images", "text": "notes or reports", "tabular": "clinical variables"}


def describe_run(record: SiteRunRecord) -> Iterator[Fact]:
    """Yield what a person needs to know of a run, as (name, text)."""
    yield "Run", record.run
    yield from (("WARNING", gap) for gap in record.gaps)
    yield "Outcome", _describe_outcome(record)
    yield "Time", _describe_time(record)
    yield from _describe_study(record)
    if record.order:
        yield "Order of the lead", " ".join(map(str, record.order.get("overrides", ())))
        yield "Configuration", f"digest {record.order.get('digest', '')}"
    if record.order:
        yield "The lead reads", _WHAT_THE_LEAD_READS[record.is_plaintext]
    for each in record.data:
        yield "Data read", f"{each.dataset}, at least {each.patients} patients, digest {each.digest}"
    for spent in record.spending:
        yield "Privacy booked", describe_spending(spent)
    if not record.spending and record.outcome != "declined":
        yield "Privacy booked", "nothing: the run had no differential privacy, or has not used the data yet"
    yield "Asked by the lead", _count_kinds(record.requests) or "nothing"
    yield "Models received", f"{len(record.models)} different ones"
    yield "Left this hospital", describe_sent(record)
    yield from (("Stopped at the gate", fault) for fault in record.refused)
    yield from (("Declined because", reason) for reason in record.declined)


def describe_spending(spent: RunSpending) -> str:
    """Return what a run booked on one data set."""
    said = f"{spent.dataset}: {format_guarantee(spent.epsilon, spent.delta, spent.noise_multiplier, spent.unit)}"
    shared = f"; {format_local_epsilon(spent.local_epsilon, spent.delta)}" if spent.shares > 1 else ""
    return f"{said}{shared}, in {spent.booked_count} bookings"


def describe_sent(record: SiteRunRecord) -> str:
    """Return how many replies left, of which kind, and how large they were."""
    if not record.sent:
        return "nothing"
    kinds = _count_kinds(Counter(each.kind for each in record.sent))
    paid = sum(bool(each.release) for each in record.sent)
    private = f"; {paid} with private content name their release in the privacy ledger" if paid else ""
    return f"{len(record.sent)} replies ({kinds}), {record.bytes_sent:,} bytes{private}"


def describe_own_gain(row: Mapping[str, Any]) -> str:
    """Return what the hospital gained by a run, as `fedhealth site compare` found it."""
    names = {"alone": "alone", "shared": "the shared model", "tuned": "its personal copy"}
    values = {words: (row.get(name) or {}).get("value") for name, words in names.items()}
    told = [f"{words} {value:.3f}" for words, value in values.items() if value is not None]
    return f"AUROC on own test patients: {', '.join(told) or 'not defined'}"


def build_processing_entry(record: SiteRunRecord, site: str) -> dict[str, str]:
    """Return a run as an entry of a register of processing activities (GDPR Art. 30(1), letters a to g).

    What a hospital adds itself (its controller's address, its officer, the members' seats) is left to its register.
    """
    study, data = record.study, _describe_data_subjects(record)
    return {
        "run": record.run,
        "from": format_time(record.started),
        "to": format_time(record.last),
        "controller": site,
        "contact of the study": study.contact if study else "",
        "purpose": study.purpose if study else "not stated: the run was answered without a study",
        "permit": study.ethics if study else "",
        "data subjects": f"patients of {data}" if data else "none recorded: no task with patients' data was accepted",
        "categories of data": _list_categories(record) if data else "",
        "recipients": _describe_recipients(record),
        "transfers to third countries": "not known here: see the members' seats",
        "erasure": _describe_erasure(record),
        "safeguards": _describe_safeguards(record),
        "outcome": _describe_outcome(record),
    }


def dump_record(record: SiteRunRecord) -> dict[str, Any]:
    """Return a run's record as plain values, for JSON; the study by name, version and digest."""
    study = record.study
    about = {"name": study.name, "version": study.version, "digest": study.digest} if study else None
    fields = {name: value for name, value in vars(record).items() if name not in ("study", "order")}
    plain = {
        name: [asdict(each) if hasattr(each, "__dataclass_fields__") else each for each in value]
        if isinstance(value, tuple)
        else value
        for name, value in fields.items()
    }
    return {**plain, "study": about, "order": dict(record.order), "bytes_sent": record.bytes_sent}


def _describe_study(record: SiteRunRecord) -> Iterator[Fact]:
    study = record.study
    if study is None:
        yield "Study", "none" if not record.order.get("study") else f"digest {record.order['study']}"
        return
    yield "Study", f"{study.label}: {study.title}"
    yield "Purpose", study.purpose
    yield "Permit", study.ethics
    yield "Budget of the study", describe_budget(study)
    for each in record.decisions:
        yield each.decision.capitalize(), f"by {each.person}, {format_time(each.time)}"


def _describe_outcome(record: SiteRunRecord) -> str:
    return _OUTCOMES.get(record.outcome, record.outcome)


def _describe_time(record: SiteRunRecord) -> str:
    back = " (this machine's clock was set back meanwhile)" if record.last < record.started else ""
    return f"{format_time(record.started)} to {format_time(record.last)}{back}"


def _describe_data_subjects(record: SiteRunRecord) -> str:
    """Return the data sets with their sizes; with their digests if one of them was read in more than one state."""
    names = [each.dataset for each in record.data]
    return ", ".join(
        f"{each.dataset} (at least {each.patients}{f', digest {each.digest}' if names.count(each.dataset) > 1 else ''})"
        for each in record.data
    )


def _describe_recipients(record: SiteRunRecord) -> str:
    """Return who gets what of a run, by what this site composed from the order itself."""
    if record.outcome == "declined":
        return "the lead: the answer that this hospital does not take part"
    members = f"; models made of them: {', '.join(record.study.members)}" if record.study else ""
    return f"the lead: {_WHAT_THE_LEAD_READS[record.is_plaintext]}{members}"


def _describe_erasure(record: SiteRunRecord) -> str:
    """Return how long what is kept; nothing here deletes what other institutions received."""
    study = f"the study ends on {record.study.last_day}; " if record.study else ""
    files = f"files in state/runs/{record.run}: until this hospital deletes them"
    books = "audit log and privacy ledger: kept, they hold no patients' data"
    return (
        f"{study}keys of secure aggregation: when the run ends; {files}; {books}; what the recipients received: by them"
    )


def _list_categories(record: SiteRunRecord) -> str:
    """Return the kinds of data that a run's models read, and the labels, by the study's configuration."""
    if record.study is None:
        return "not stated"
    configuration = record.study.configuration
    names = [words for key, words in _MODALITIES.items() if (configuration.get("model") or {}).get(key)]
    data = configuration.get("data") or {}
    variables = ", ".join(data.get("tabular") or {})
    read = "; ".join(names) + (f" ({variables})" if variables and "clinical variables" in names else "")
    labels = ", ".join(map(str, (data.get("task") or {}).get("classes") or ()))
    return f"{read}; labels ({labels})" if labels else read


def _describe_safeguards(record: SiteRunRecord) -> str:
    promised = record.study is not None and record.study.epsilon is not None
    nothing = "differential privacy, of which nothing was booked" if promised else "nothing booked in a privacy ledger"
    booked = "; ".join(map(describe_spending, record.spending)) or nothing
    return f"patients' data stay in the hospital; {booked}; every reply is logged with its digest"


def _count_kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {_KINDS.get(kind, kind)}" for kind, number in counts.items())
