#!/usr/bin/env bash
# Check a machine with a GPU, with the python and torch that it has: under eight minutes, no network.
#
#   device-check.sh [--wheels FOLDER] [--device cuda|cpu] [--only STEP ...]
#
#   --wheels FOLDER  packages that this python lacks: they are unpacked beside it and change nothing of it
#   --device cpu     a dry run with tiny models
#   --only STEP ...  environment, equality, tests, plain, private (starts of names are enough)
# PYTHON names the interpreter, default python3. Logs go to $OUT, default build/device-check. The last line is one JSON
# object; a step that fails is named there and stops no other.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="${PYTHON:-python3}" out="${OUT:-${here}/build/device-check}" wheels='' further=()

while [[ $# -gt 0 ]]; do
  case "${1}" in
    --wheels) wheels="${2:?--wheels needs a folder}"; shift 2 ;;
    *) further+=("${1}"); shift ;;
  esac
done

mkdir -p "${out}" || exit 1
if [[ -n "${wheels}" ]]; then
  site=$(mktemp -d)
  trap 'rm -rf "${site}"' EXIT
  "${python}" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "${site}" "${wheels}"/*.whl \
    > "${out}/install.log" 2>&1 || echo "installing the wheels failed, see install.log" >&2
  export PYTHONPATH="${site}${PYTHONPATH:+:${PYTHONPATH}}"
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}" PYTHONUNBUFFERED=1
cd "${here}" || exit 1
"${python}" -m benchmarks.device_check --out "${out}" "${further[@]}"
