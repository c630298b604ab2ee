"""Where the real data sets lie: beside the checkout, or where FEDHEALTH_TEST_DATA says."""

import os
from pathlib import Path

DATA_SETS = Path(os.environ.get("FEDHEALTH_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
