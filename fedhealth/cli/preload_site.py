"""Import what a hospital's service imports, once, at the installation: Python then keeps it compiled."""

import fedhealth.cli.ingest
import fedhealth.cli.site_run
import fedhealth.site.check.check_site
import fedhealth.site.check.trial
import fedhealth.site.daemon
import fedhealth.site.worker  # noqa: F401
