#!/usr/bin/env bash
# Install the release in this folder into a virtual environment of its own, from files whose hashes are in the lock only.
#
#   install.sh [--side site|site-sources|lead] [--wheelhouse FOLDER] [--cpu FOLDER] [--into FOLDER] [setup.yaml]
#   install.sh --download FOLDER [--side site|site-sources|lead]
#
#   --side SIDE          site-sources: a site whose ingest reads DICOMweb, FHIR or a database
#   --download FOLDER    fetch the packages into FOLDER, for a machine without network of the same kind (no installation)
#   --wheelhouse FOLDER  install from such a folder; no index is asked
#   --cpu FOLDER         no GPU here: take torch and torchvision from the wheels in FOLDER (CPU builds that you checked), and
#                        leave out all of CUDA
#   --into FOLDER        default /opt/fedhealth-VERSION; /opt/fedhealth then points to it (upgrade and rollback: docs/releases.md)
#   setup.yaml           at a site: go on with `fedhealth site setup setup.yaml`
# PYTHON names the interpreter, default python3.
set -euo pipefail
unset PYTHONPATH PYTHONHOME
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python="${PYTHON:-python3}"
side=site wheelhouse='' cpu='' download='' into='' setup=''
while [[ $# -gt 0 ]]; do
  case "$1" in
    --side) side="$2"; shift 2 ;;
    --wheelhouse) wheelhouse=$(cd "$2" && pwd); shift 2 ;;
    --cpu) cpu=$(cd "$2" && pwd); shift 2 ;;
    --download) download="$2"; shift 2 ;;
    --into) into="$2"; shift 2 ;;
    -*) echo "unknown option $1; the first lines of this file explain the options" >&2; exit 2 ;;
    *) setup=$(realpath "$1"); shift ;;
  esac
done
lock="${here}/${side}.lock"
[[ -f "${lock}" ]] || { echo "there is no ${side}.lock: --side is site, site-sources or lead" >&2; exit 2; }
(cd "${here}" && grep -v ' setup\.yaml$' SHA256SUMS | sha256sum --check --quiet --strict) || {  # which you edit
  echo "a file of the release was changed: verify the archive's signature and unpack it again" >&2; exit 8
}
"${python}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: PYTHON=..." >&2; exit 2; }

work=$(mktemp -d)
chmod 755 "${work}"
trap 'rm -rf "${work}"' EXIT
wanted="${work}/wanted.lock"
# Entries go over several lines that end with a backslash: an entry is left out whole.
awk -v cpu="${cpu:+1}" '
  !continued { skip = cpu && $0 ~ /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==/ }
  { if (!skip) print; continued = /\\$/ }
' "${lock}" >"${wanted}"
# A package without a wheel is built from its hashed source, by the setuptools of the lock: nothing else is fetched.
tools="${work}/tools.lock"
awk '!continued { keep = /^setuptools==/ } { if (keep) print; continued = /\\$/ }' "${wanted}" >"${tools}"
source=(--quiet --no-deps --require-hashes --no-build-isolation --use-pep517 --disable-pip-version-check)
if [[ -n "${wheelhouse}" ]]; then
  source+=(--no-index --find-links "${wheelhouse}")
fi

if [[ -n "${download}" ]]; then
  mkdir -p "${download}"
  "${python}" -m venv "${work}/venv"
  "${work}/venv/bin/pip" install "${source[@]}" -r "${tools}"
  "${work}/venv/bin/pip" download "${source[@]}" --dest "${download}" -r "${wanted}"
  echo "The packages are in ${download}. On the other machine: install.sh --wheelhouse FOLDER"
  exit 0
fi

wheel=("${here}"/fedhealth-*.whl)
version=$(basename "${wheel[0]}" | cut -d- -f2)
target="${into:-/opt/fedhealth-${version}}"
"${python}" -m venv "${target}"
pip=("${target}/bin/pip" install)
local=(--quiet --no-deps --no-index --disable-pip-version-check)
if [[ -n "${cpu}" ]]; then
  "${pip[@]}" "${local[@]}" "${cpu}"/torch-*.whl "${cpu}"/torchvision-*.whl
fi
"${pip[@]}" --no-compile "${source[@]}" -r "${tools}"
"${pip[@]}" --no-compile "${source[@]}" -r "${wanted}"
"${pip[@]}" "${local[@]}" "${wheel[0]}"
# Compile what this side imports: the service cannot write here, and most of the packages it never imports.
"${target}/bin/python" -I -W ignore -c "import fedhealth.cli.preload_${side%-sources}" || {
  echo "the installation does not start" >&2; exit 1
}
# Nothing is added to this environment later: an upgrade makes a new one.
"${target}/bin/pip" uninstall --quiet --yes pip
if [[ -z "${into}" ]]; then
  ln -sfn "${target}" /opt/fedhealth
fi
"${target}/bin/fedhealth" --version
if [[ -n "${setup}" ]]; then
  exec "${target}/bin/fedhealth" site setup "${setup}"
fi
