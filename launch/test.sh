#!/usr/bin/env bash
# Runs the tests: launch/test.sh, or launch/test.sh -m "not slow" for the quick ones.
set -euo pipefail
export EXTRAS=test
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# Modules are shared by two processes, for Python alone uses one core; on an accelerator
# there is one, which has its memory for itself.
processes=2
[ "${ACCELERATOR:-cpu}" = cpu ] || processes=0
exec .venv/bin/python -m pytest --numprocesses="$processes" --dist=loadscope \
  --durations=15 "$@"
