"""Check that a site's data stay the same during a run: a cohort that was replaced between two tasks is another cohort.

What was found in the data is written to the site's own log at the run's first task; nothing of it is sent.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fedhealth.data.dataset import SiteDataset
from fedhealth.errors import DataError
from fedhealth.utils.atomic_io import read_json, write_json

COHORT_FILE = "cohort.json"

log = logging.getLogger("fedhealth.site")


def check_cohort_unchanged(folder: Path, cohort: SiteDataset) -> None:
    """Note which data a run begins with; stop if they are others later.

    Args:
        folder: of the files that the site keeps for the run.
        cohort: the site's data as they are now.

    Raises:
        DataError: they are not those of the run's first task.

    """
    begun = read_json(folder / COHORT_FILE)
    if begun is None:
        for finding in cohort.findings:
            log.log(logging.WARNING if finding.serious else logging.INFO, "data: %s", finding.text)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(folder / COHORT_FILE, {"digest": cohort.digest})
    elif begun["digest"] != cohort.digest:
        raise DataError(
            f"The data of {cohort.site} changed since this run was started.", "Restore them, or start a new run."
        )
