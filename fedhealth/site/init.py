"""Set up a site: its folder, its keys, its join request, and a site.yaml to edit."""

from __future__ import annotations

from fedhealth.consortium.join_request import JoinRequest
from fedhealth.errors import ConfigError
from fedhealth.site.home import SiteHome
from fedhealth.site.make_join_request import make_join_request
from fedhealth.site.policy import Policy, load_policy
from fedhealth.utils.atomic_io import create_once
from fedhealth.utils.json_schema import format_schema_line, write_schema

_POLICY_TEMPLATE = """\
{schema}
# The policy of this hospital. What it does not allow is declined; without this file no data leaves.
# After a change, run: fedhealth site check

name: "{name}"
lead: "{lead}"

# Data that jobs may train on. The first key is the name that jobs use (ask the lead for it).
# `dataset` is your own name for these patients. Each has one lifetime privacy budget: keep the name when files move.
#
# data:
#   chest:
#     dataset: chest-2026
#     root: /srv/fedhealth/chest
#     manifest: manifest.csv
#
# Folder of further configuration files that jobs may choose; the lead tells you whether one is needed.
# conf: /srv/fedhealth/conf

# The way to the lead, the only address that this site connects to. Without this section, the variables HTTPS_PROXY and
# NO_PROXY count; a service has other variables than your shell. `none`: never a proxy.
#
# proxy:
#   address: http://proxy.example:3128
#   credentials: proxy-password.txt    # file with one line user:password, chmod 600

# What a job may request, and what may leave.
limits:
  units: [patient]             # privacy units: patient, record, client; none also allows runs without privacy
  epsilon: 8.0                 # maximum for one run
  lifetime_epsilon: 20.0       # maximum for all runs on one data set together
  local_epsilon: null          # maximum for one run with shared noise if all other sites collude; null: no such runs
  lifetime_local_epsilon: null # the same for all runs on one data set together; null: lifetime_epsilon
  max_delta: 0.0001            # maximum delta of a job
  delta: 0.000001              # at which lifetime_epsilon is measured
  max_failures: 20             # maximum number of failed private requests on one data set, of all runs
  min_noise_multiplier: 0.3    # minimum noise, as a multiple of the clipping bound
  secure_aggregation: true     # required: the lead sees only sums over sites
  min_sites: 3                 # minimum number of sites in every sum
  colluders: null              # members assumed to collude with the lead; null: fewer than a third of the members
  min_honest: null             # honest members in every sum; null: 3, and 2 for up to five members
  changing_cohorts: false      # whether sums without privacy may differ in their contributors
  absent_rounds: 2             # rounds in a row that may be missed without privacy if layers stay local
  word_embeddings: false       # whether a run without privacy may sum rows of word embeddings
  exact_weights: false         # whether the exact number of training rows may leave instead of a rounded one
  min_patients: 20             # a smaller cohort is never reported on its own
  models: null                 # allowed options of the model groups; null: all
  personalizations: null       # allowed options of that group; null: all
  megabytes_per_round: 1000.0  # maximum that leaves
  hours: 72.0                  # maximum duration of one run
  unattended_studies: false    # whether runs need no study that a person approved here
  minor_amendments: false      # whether new dates and texts of an approved study need no further approval

# Resources of a task.
resources:
  device: auto                 # auto, cpu or cuda:0
  threads: 1
  memory_gb: 16.0              # a task that uses more is stopped; private training splits its batches to fit
  minutes: 60.0                # deadline of a task
  incoming_megabytes: 2000.0   # maximum size of one message
  weights: null                # folder of pretrained weights; jobs give only a file name
"""


def init_site(home: SiteHome, name: str, lead: str) -> JoinRequest:
    """Create a site's folder, keys and join request, a strict site.yaml if there is none, and its schema.

    Raises:
        ConfigError: the name or address is malformed, or an existing site.yaml has others.
        TrustError: a key is damaged, or other users can read it.

    """
    if home.policy.exists():
        policy = load_policy(home)
        if (policy.name, policy.lead) != (name, lead):
            raise ConfigError(
                f"{home.policy} already names the site {policy.name!r} and the lead {policy.lead}.",
                "Correct that file or the options of this command, or choose another folder with --home.",
            )
    request = make_join_request(home, name, lead)
    create_once(home.policy, lambda: render_policy(name, lead).encode())
    write_schema(home.policy, Policy)
    return request


def render_policy(name: str, lead: str) -> str:
    """Return the strict site.yaml of a new site, without data."""
    return _POLICY_TEMPLATE.format(name=name, lead=lead, schema=format_schema_line("site.yaml"))
