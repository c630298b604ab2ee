"""Import what the lead's server and runs import, once, at the installation: Python then keeps it compiled."""

import fedhealth.cli.run
import fedhealth.experiment.launch
import fedhealth.lead.server
import fedhealth.report.page  # noqa: F401
