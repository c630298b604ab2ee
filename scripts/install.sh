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
# PYTHON names the interpreter, default python3. Every step may be repeated: a finished installation is kept.
# Exit codes: 2 wrong options, 8 changed files, 11 no room, 1 another fault; those of `fedhealth site setup` after that.
set -euo pipefail
unset PYTHONPATH PYTHONHOME
umask 022  # the service's account reads what is installed
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python="${PYTHON:-python3}"
side=site wheelhouse='' cpu='' download='' into='' setup=''

stop() {  # CODE PROBLEM ADVICE
  printf 'error: %s\n%s\n' "$2" "$3" >&2
  exit "$1"
}

need_value() {  # OPTION and all that follows it
  [[ $# -ge 2 && "$2" != -* ]] || stop 2 "$1 needs a value." "The first lines of $0 explain the options."
}

find_folder() {  # OPTION FOLDER
  [[ -d "$2" ]] || stop 2 "$1: $2 is no folder." "Correct the path."
  (cd "$2" && pwd)
}

while [[ $# -gt 0 ]]; do
  case "$1" in
    --side) need_value "$@"; side="$2"; shift 2 ;;
    --wheelhouse) need_value "$@"; wheelhouse=$(find_folder "$1" "$2"); shift 2 ;;
    --cpu) need_value "$@"; cpu=$(find_folder "$1" "$2"); shift 2 ;;
    --download) need_value "$@"; download="$2"; shift 2 ;;
    --into) need_value "$@"; into="$2"; shift 2 ;;
    -*) stop 2 "There is no option $1." "The first lines of $0 explain the options." ;;
    *)
      [[ -f "$1" ]] || stop 2 "$1: there is no such file." "Give the setup.yaml that you edited."
      setup=$(realpath "$1"); shift ;;
  esac
done
lock="${here}/${side}.lock"
[[ -f "${lock}" ]] || stop 2 "There is no ${side}.lock." "--side is site, site-sources or lead."
(cd "${here}" && grep -v ' setup\.yaml$' SHA256SUMS | sha256sum --check --quiet --strict) ||  # which you edit
  stop 8 "A file of the release was changed or is missing (above)." "Verify the archive's signature and unpack it again."
"${python}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  stop 2 "${python} is not Python 3.11 or newer." "Name another one: sudo PYTHON=/usr/bin/python3.12 $0 ..."
# The service has another account: a Python in somebody's own folder is closed to it. With --into, you know for whom it is.
interpreter=$("${python}" -c 'import os, sys; print(os.path.realpath(sys.executable))')
if [[ -z "${into}" && ${EUID} -eq 0 ]] && command -v runuser >/dev/null && ! runuser -u nobody -- "${interpreter}" -c '' 2>/dev/null; then
  stop 2 "${python} is closed to other accounts, so to the service." "Use the system's: sudo PYTHON=/usr/bin/python3 $0 ..."
fi

work=$(mktemp -d) || stop 11 "There is no room for temporary files." "Make room in ${TMPDIR:-/tmp}, and run this again."
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

needed_kb=8000000
[[ -z "${cpu}" ]] || needed_kb=3000000

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
program="${target}/bin/fedhealth"
if [[ -z "${into}" ]]; then
  program=/opt/fedhealth/bin/fedhealth  # the unit names this path: an upgrade or a rollback changes where it leads
fi
begun="${target}/.installing" mark="${target}/.installed"
sums=$(sha256sum <"${here}/SHA256SUMS" | cut -c1-64)
content="${side}${cpu:+ cpu} ${sums}"  # what a finished installation consists of

install_release() {
  if [[ -f "${begun}" ]]; then
    echo "Removing the unfinished installation in ${target}."
    rm -rf "${target}"
  fi
  [[ ! -e "${target}" ]] || stop 2 "${target} holds something else." "Remove it, or choose another folder with --into."
  { mkdir -p "${target}" && touch "${begun}"; } || stop 2 "${target} cannot be created." "Run this with sudo, or choose a folder with --into."
  local free
  free=$(df --output=avail -k "${target}" | tail -n 1)
  [[ "${free}" -ge ${needed_kb} ]] ||
    stop 11 "${target}: $((free / 1000000)) of $((needed_kb / 1000000)) GB are free." "Make room, and run this again."
  fill_environment
  echo "${content}" >"${begun}"
  mv "${begun}" "${mark}"
}

fill_environment() {
  "${python}" -m venv "${target}" ||
    stop 1 "${python} cannot make a virtual environment (above)." "On Debian and Ubuntu: apt install python3-venv."
  local pip=("${target}/bin/pip" install)
  local offline=(--quiet --no-deps --no-index --disable-pip-version-check)
  if [[ -n "${cpu}" ]]; then
    "${pip[@]}" "${offline[@]}" "${cpu}"/torch-*.whl "${cpu}"/torchvision-*.whl
  fi
  "${pip[@]}" --no-compile "${source[@]}" -r "${tools}"
  "${pip[@]}" --no-compile "${source[@]}" -r "${wanted}"
  "${pip[@]}" "${offline[@]}" "${wheel[0]}"
  # Compile what this side imports: the service cannot write here, and most of the packages it never imports.
  "${target}/bin/python" -I -W ignore -c "import fedhealth.cli.preload_${side%-sources}" ||
    stop 1 "The installation does not start (above)." "Send the lead this output."
  # Nothing is added to this environment later: an upgrade makes a new one.
  "${target}/bin/pip" uninstall --quiet --yes pip
}

known=''
[[ ! -f "${mark}" ]] || known=$(cat "${mark}")
if [[ -z "${known}" ]]; then
  echo "Installing fedhealth ${version} into ${target}; this takes some minutes."
  install_release
elif [[ "${known}" != "${content}" ]]; then
  stop 2 "${target} holds another build or side of fedhealth ${version}." "Stop its service and remove that folder, or use --into."
fi
if [[ -z "${into}" ]]; then
  ln -sfn "${target}" /opt/fedhealth
fi
"${program}" --version
if [[ -n "${setup}" ]]; then
  exec "${program}" site setup "${setup}"
fi
