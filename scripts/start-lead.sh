#!/usr/bin/env bash
# Start the lead's server in the foreground: for a container, a supervisor, or a first try. systemd: fedhealth-lead.service.
# FEDHEALTH_LEAD is the lead's folder (default ~/.fedhealth-lead); FEDHEALTH is the command (default: the one in PATH).
set -euo pipefail
umask 077
fedhealth="${FEDHEALTH:-fedhealth}"
home="${FEDHEALTH_LEAD:-${HOME}/.fedhealth-lead}"
if [[ ! -f "${home}/project.yaml" ]]; then
  echo "${home} has no project.yaml: set the consortium up first (fedhealth lead provision)" >&2
  exit 2
fi
exec "${fedhealth}" lead serve --home "${home}"
