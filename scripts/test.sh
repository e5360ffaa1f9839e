#!/usr/bin/env bash
# Sets up all that the tests need and runs ruff, mypy and pytest.
#
# Usage: scripts/test.sh [--long] [PYTEST ARGUMENT...]
#   --long                 the long tests too
#   TEST_EXTRAS="A B"      extras that are installed if they can be (default: "train rtx webgpu openvino cluster jetpack qtgmc"; train brings export);
#                          tests that need one that isn't there are skipped, with the reason
#   PYTHON=PATH            the Python to make the environment from
set -euo pipefail
# shellcheck source=scripts/setup_env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup_env.sh"

case ${1:-} in -h | --help) sed -n '2,8s/^# \{0,1\}//p' -- "${BASH_SOURCE[0]}" && exit ;; esac
need_programs x265 x264 SvtAv1EncApp ffmpeg mkvmerge

setup_env test -e ".[samples]" --group test --group lint
missing=()
for extra in ${TEST_EXTRAS-train rtx webgpu openvino cluster jetpack qtgmc}; do
    optional "$extra" -e ".[$extra]" || missing+=("$extra")
done
enter_env
cd -- "$root"

result=0
python -m ruff check . || result=1
if [[ ${#missing[@]} -eq 0 ]]; then
    python -m mypy || result=1
else
    say "[test] mypy is skipped: it needs the extras ${missing[*]}, which could not be installed"
fi
# Two workers: 4:21 on two cores that were nearly idle (2026-11-25). A file stays together, so that its fixtures are made once.
python -m pytest -n 2 --dist loadfile "$@" || result=1
exit "$result"
