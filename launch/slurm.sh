#!/usr/bin/env bash
# Trains on a Slurm cluster, one process per GPU. From the root of the clone, on storage
# that all nodes see:
#
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 launch/slurm.sh \
#     --config=configs/joint.py --workdir=runs/joint
#
# Options of sbatch stand before the script and go before the lines below. Five minutes
# before its time is over the run saves and is queued again; the same line resumes.
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
set -euo pipefail
fail() { echo "slurm.sh: $1" >&2; exit 2; }
[ -n "${SLURM_JOB_ID:-}" ] || fail "not in a job of Slurm; give it to sbatch: sbatch $0 $*"
tasks="${SLURM_NTASKS_PER_NODE:-1}" gpus="${SLURM_GPUS_ON_NODE:-0}"
((gpus == 0 || gpus == tasks)) || fail "$tasks processes for the $gpus GPUs of a node;\
 give --ntasks-per-node and --gpus-per-node the same number"
# Slurm runs a copy of this file that lies elsewhere.
cd "$SLURM_SUBMIT_DIR"
[ -f launch/environment.sh ] || fail "$PWD is not the root of the clone; call sbatch there"
((gpus == 0)) || export ACCELERATOR="${ACCELERATOR:-cuda13}"
# shellcheck source=launch/environment.sh
source launch/environment.sh
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"  # srun does not take it by itself

# USR1 comes from --signal, to this shell alone: the processes get the SIGTERM on which
# they save and end, with status 0 as after the last step. What tells the two apart is
# that this shell was told. A run that was at its end returns at once in its next job.
asked="" late=""
queue_again() { scontrol requeue "$SLURM_JOB_ID"; }
# shellcheck disable=SC2329  # called by the trap
before_the_end() {
  asked=yes
  echo "slurm.sh: the time is nearly over; the run saves and is queued again"
  scancel --signal=TERM "$SLURM_JOB_ID" || true  # then it goes on from its last save
  # Nor is it lost where it cannot save, as while data are made.
  { for ((waited = 0; waited < 240; waited++)); do sleep 1; done; queue_again; } &
  late=$!
}
trap before_the_end USR1
# On scancel and on preemption Slurm sends SIGTERM to the processes itself, and queues
# again what it preempted: this shell has only to outlive them.
trap 'asked=yes' TERM

srun --kill-on-bad-exit=1 .venv/bin/python -m jax_vidpred.main "$@" --distributed &
run=$!
while true; do
  asked="" status=0
  wait "$run" || status=$?
  [ -n "$asked" ] || break  # else a signal has ended `wait`, not the run
done
# An error (status 2) would only come again.
if [ -n "$late" ]; then kill "$late" || true; ((status == 2)) || queue_again; fi
exit "$status"
