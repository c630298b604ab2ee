"""The reservations of studies follow the decisions on them: what no approval holds is given back.

Called after every decision and whenever the site starts, so that a crash between a decision and its reservation, or an
approval on other data, leaves nothing reserved that nobody approved. The accountant takes seconds to import, so it is
imported only where something is changed.
"""

from __future__ import annotations

from datetime import date, datetime
from datetime import time as clock_time

from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.privacy.accounting.study_share import StudyShare, get_study_key
from fedhealth.site.home import SiteHome
from fedhealth.site.study_store import GIVEN, StudyDecision, StudyStore


def make_share(study: ResearchStudy) -> StudyShare | None:
    """Return what the runs of a study may spend; None without differential privacy."""
    if study.epsilon is None:
        return None
    after = datetime.combine(date.fromisoformat(study.last_day), clock_time.max)
    return StudyShare(study.name, study.runs, study.epsilon, study.delta, after.timestamp())


def release_unapproved_shares(home: SiteHome) -> None:
    """Give back every reservation of a study that is not that of its newest approval here.

    Raises:
        TrustError: the decision on a study is damaged; nothing is given back.
        PrivacyError: a ledger is damaged or in use; what the others hold is given back all the same.

    """
    from fedhealth.privacy.accounting.study_claim import release_shares

    store = StudyStore(home)
    stored, newest = store.read_studies(), dict[str, StudyDecision]()
    for decision in sorted(store.load_decisions().values(), key=lambda each: each.version):
        if decision.answer in GIVEN and not stored.is_closed(decision.study):
            newest[decision.study] = decision
    keep = {(each.ledger, get_study_key(name)) for name, each in newest.items() if each.ledger}
    release_shares(home.state, keep)


def extend_share(study: ResearchStudy, ledger: str, home: SiteHome) -> None:
    """Let what a study has reserved in the ledger of a data set hold until the last day of this version.

    Raises:
        PrivacyError: the ledger is damaged or in use.

    """
    from fedhealth.privacy.accounting.study_claim import extend_reservations

    if (share := make_share(study)) is not None and ledger:
        extend_reservations(home.state, ledger, share)
