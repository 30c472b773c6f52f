#!/usr/bin/env bash
# What every pod of gke_jobset.yaml runs, in an image that holds the clone:
#
#   launch/pod.sh --config=... --workdir=...
#
# A run that gets SIGTERM saves and ends with status 0. Kubernetes would take that for
# finished; told by status 143 that it was stopped, the JobSet starts all pods again.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

# Nodes may come minutes one after the other.
.venv/bin/python -m jax_vidpred.main --join_timeout=1800 "$@" --distributed &
run=$! stopped=""
# shellcheck disable=SC2329  # called by the trap
pass_on() {
  asked=yes stopped=143
  kill -TERM "$run" 2> /dev/null || true
}
trap pass_on TERM
while true; do
  asked="" status=0
  wait "$run" || status=$?
  [ -n "$asked" ] || break  # else a signal has ended `wait`, not the run
done
exit "${stopped:-$status}"
