#!/usr/bin/env bash
# Install the programs that some tests drive: Chromium for the report, shellcheck for the scripts here, Squid as a proxy,
# bubblewrap for the unit's restrictions.
# Tests skip with a reason where one is absent.
set -euo pipefail
missing=()
for program in chromium shellcheck squid; do
  command -v "${program}" >/dev/null || [[ -x "/usr/sbin/${program}" ]] || missing+=("${program}")
done
command -v bwrap >/dev/null || missing+=(bubblewrap)
if [[ ${#missing[@]} -eq 0 ]]; then
  exit 0
fi
user=$(id -u)
if [[ ${user} -ne 0 ]] || ! command -v apt-get >/dev/null; then
  echo "not installed: ${missing[*]}; the tests that need them will be skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
