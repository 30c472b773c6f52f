#!/usr/bin/env bash
# Runs the tests: launch/test.sh, or launch/test.sh -m "not slow" for the quick ones.
set -euo pipefail
export EXTRAS=test
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest --durations=15 "$@"
