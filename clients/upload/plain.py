"""Send the update and the statistics as they are: the lead sees each site's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import RecordDict

from fedhealth.training.state import State
from fedhealth.wire import STATISTICS, UPDATE, Directive, pack


class PlainUpload:
    """No secure aggregation."""

    def seal(self, directive: Directive, update: State, statistics: Mapping[str, np.ndarray]) -> RecordDict:
        """Return the records of an answer."""
        answer = RecordDict({STATISTICS: pack(dict(statistics))})
        if update:
            answer[UPDATE] = pack(update)
        return answer
