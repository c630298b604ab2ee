#!/usr/bin/env bash
# Start the site client in the foreground: for a container, a supervisor, or a first try. systemd: fedhealth-site.service.
# FEDHEALTH_HOME is the site's folder (default ~/.fedhealth); FEDHEALTH is the command (default: the one in PATH).
set -euo pipefail
umask 077
export OMP_WAIT_POLICY=PASSIVE
fedhealth="${FEDHEALTH:-fedhealth}"
home="${FEDHEALTH_HOME:-${HOME}/.fedhealth}"
if [[ ! -f "${home}/site.yaml" ]]; then
  echo "${home} has no site.yaml: set the site up first (fedhealth site init)" >&2
  exit 2
fi
exec "${fedhealth}" site start --home "${home}"
