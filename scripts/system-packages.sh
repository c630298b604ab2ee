#!/usr/bin/env bash
# Install the programs that some tests drive: Chromium for the report, shellcheck for the scripts here, Squid as a proxy,
# bubblewrap for the unit's restrictions, Orthanc as an archive of DICOM files, PostgreSQL, and a FHIR server from npm.
# Tests skip with a reason where one is absent.
set -euo pipefail
cd "$(dirname "$0")/.."
fhir=build/fhir-server
if command -v npm >/dev/null && [[ ! -d ${fhir}/node_modules/@medplum/fhir-router ]]; then
  mkdir -p "${fhir}"
  npm install --prefix "${fhir}" --no-package-lock --no-audit --no-fund --loglevel=error @medplum/fhir-router@4.5.2 >/dev/null ||
    echo "not installed: @medplum/fhir-router; the tests that need it will be skipped" >&2
fi
missing=()
for program in chromium shellcheck squid; do
  command -v "${program}" >/dev/null || [[ -x "/usr/sbin/${program}" ]] || missing+=("${program}")
done
if [[ ! -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ]]; then
  missing+=(orthanc orthanc-dicomweb)
fi
compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || missing+=(postgresql)
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
# Debian starts new servers as services; the tests start their own, on loopback, with folders of their own.
for service in orthanc postgresql; do
  if [[ " ${missing[*]} " == *" ${service} "* ]] && [[ -d /run/systemd/system ]]; then
    systemctl disable --now --quiet "${service}" || true
  fi
done
