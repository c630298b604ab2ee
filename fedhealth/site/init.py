"""The first step of a hospital: its folder, its keys, its join request, and a site.yaml to be edited."""

from __future__ import annotations

from fedhealth.consortium.join_request import JoinRequest
from fedhealth.errors import ConfigError
from fedhealth.site.home import SiteHome
from fedhealth.site.make_join_request import make_request
from fedhealth.site.policy import load_policy
from fedhealth.utils.atomic_io import write_atomic

_POLICY = """\
# The rules of this hospital. What is not allowed here does not happen; without this file nothing leaves.
# After a change: fedhealth site check

name: "{name}"
lead: "{lead}"

# Data that jobs may train on. The first word is the name that jobs use (the lead tells it).
# `dataset` is your own name for these patients: one privacy budget each, for life. Keep it when files move.
#
# data:
#   chest:
#     dataset: chest-2026
#     root: /srv/fedhealth/chest
#     manifest: manifest.csv
#
# Folder of further configuration files that jobs may choose; the lead tells whether one is needed.
# conf: /srv/fedhealth/conf

# What a job may ask for, and what may leave.
limits:
  units: [patient]             # whom privacy protects: patient, record, client; none allows runs without any
  epsilon: 8.0                 # the most that one run may spend
  life_epsilon: 20.0           # the most that all runs on one data set may spend together
  max_delta: 0.0001            # the largest delta that a job may set
  min_sigma: 0.3               # the least noise, as a multiple of the clipping bound
  secure_aggregation: true     # whether it is required: the lead sees sums only
  min_sites: 3                 # the smallest sum that this site takes part in
  exact_weights: false         # whether the number of training rows may be told instead of a coarse step near it
  min_patients: 20             # a smaller cohort reports nothing on its own
  models: null                 # options of the model groups; null: all that are installed
  personalizations: null       # options of that group; null: all that are installed
  megabytes_per_round: 1000.0  # that may leave
  hours: 72.0                  # for how long this site takes part in one run

# What a task may use.
resources:
  device: auto                 # auto, cpu or cuda:0
  threads: 1
  memory_gb: 16.0              # after which a task is stopped
  minutes: 60.0                # for one message
  incoming_megabytes: 2000.0   # of one message
  weights: null                # folder of pretrained weights, which jobs name by file name only
"""


def begin(home: SiteHome, name: str, lead: str) -> JoinRequest:
    """Make a site's folder, keys and request, and a strict site.yaml where there is none.

    Raises:
        ConfigError: the name or address has another form, or the site.yaml there says something else.
        TrustError: a key is damaged, or others can read it.

    """
    if home.policy.exists():
        policy = load_policy(home)
        if (policy.name, policy.lead) != (name, lead):
            raise ConfigError(
                f"{home.policy} is of the site {policy.name!r} and the lead {policy.lead}.",
                "Correct the file or the command, or choose another --home.",
            )
    request = make_request(home, name, lead)
    if not home.policy.exists():
        write_atomic(home.policy, _POLICY.format(name=name, lead=lead).encode())
    return request
