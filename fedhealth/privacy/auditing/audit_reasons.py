"""The reasons for which a site declines private training that fails its checks: they name no data and no layer."""

_SITE_LOG = "(see site.log; in a rehearsal fedhealth.log)"
FAILED_SELF_CHECK = f"the gradient engine fails its self-check on this model {_SITE_LOG}"
FAILED_AUDIT = f"private training fails its audit on synthetic patients {_SITE_LOG}"
