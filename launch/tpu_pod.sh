#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU slice, from your own machine with gcloud:
#
#   export TPU_NAME=... TPU_ZONE=...
#   launch/tpu_pod.sh start --config=configs/joint.py --workdir=/mnt/shared/joint
#   launch/tpu_pod.sh log       what worker 0 prints, as it comes
#   launch/tpu_pod.sh status    of every worker: whether it runs, its last lines
#   launch/tpu_pod.sh stop      saves; start with the same arguments resumes
#
# start copies the last commit of this clone to the workers. The run goes on when this
# machine goes away. The project is that of your gcloud settings.
set -euo pipefail
fail() { echo "tpu_pod.sh: $1" >&2; exit 2; }
action="${1:-}"
[[ $action =~ ^(start|log|status|stop)$ ]] ||
  fail "given '$*'; wanted start ARGUMENTS..., log, status or stop"
shift
[ -n "${TPU_NAME:-}" ] && [ -n "${TPU_ZONE:-}" ] ||
  fail "set TPU_NAME and TPU_ZONE to name and zone of the TPU VM"
command -v gcloud > /dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk"
cd "$(dirname "$0")/.."

on() { # WORKER COMMANDS: in the copy of the clone
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$TPU_ZONE" --worker="$1" \
    --command="set -euo pipefail; mkdir -p jax_vidpred; cd jax_vidpred
runs() { [ -f run.pid ] && grep -qs jax_vidpred /proc/\$(cat run.pid)/cmdline; }
$2"
}
# shellcheck disable=SC2016  # what is in single quotes is for the workers
case "$action" in
  start)
    (($#)) || fail "start: wanted the arguments of jax_vidpred.main"
    git diff --quiet HEAD || echo "tpu_pod.sh: what is not committed stays here" >&2
    archive="$(mktemp)"
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    on all 'if runs; then echo "it runs already; stop it first" >&2; exit 2; fi'
    gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:jax_vidpred.tar.gz" \
      --zone="$TPU_ZONE" --worker=all
    line=".venv/bin/python -m jax_vidpred.main$(printf ' %q' "$@") --distributed"
    on all "tar xzf ../jax_vidpred.tar.gz
export ACCELERATOR=tpu PYTHON=${PYTHON:-python3}; source launch/environment.sh
setsid nohup $line < /dev/null >> run.log 2>&1 & echo \$! > run.pid"
    echo "Started; to see it: launch/tpu_pod.sh log"
    ;;
  log) on 0 'tail -n 50 -F --pid=$(cat run.pid) run.log' ;;
  status) on all 'if runs; then echo runs; else echo "does not run"; fi; tail -n 5 run.log' ;;
  stop) on all 'if runs; then kill $(cat run.pid); fi; while runs; do sleep 1; done
tail -n 5 run.log' ;;
esac
