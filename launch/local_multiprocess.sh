#!/usr/bin/env bash
# Several processes on this machine, as if they were several hosts:
#
#   launch/local_multiprocess.sh COUNT COMMAND ARGUMENTS...
#
# COMMAND is main (they train together), evaluate or precompute_flow (each does a share).
# Ctrl-C lets all save and end, a second one kills. If one fails, the others are stopped.
set -euo pipefail
fail() { echo "local_multiprocess.sh: $1" >&2; exit 2; }
[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ && $2 =~ ^(main|evaluate|precompute_flow)$ ]] ||
  fail "given '$*'; wanted COUNT, one of main, evaluate, precompute_flow, and its arguments"
count=$1 module=$2 && shift 2
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"
python=.venv/bin/python grace="${LAUNCH_GRACE_SECONDS:-10}" gpus=() running=()
if [[ ${ACCELERATOR:-cpu} == cuda* ]]; then
  visible="${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader)}"
  read -ra gpus -d '' <<< "${visible//,/ }" || true
  ((${#gpus[@]} && ${#gpus[@]} % count == 0)) || fail "${#gpus[@]} GPUs cannot be dealt to\
 $count processes; give another COUNT, or name fewer GPUs in CUDA_VISIBLE_DEVICES"
elif [ "${ACCELERATOR:-cpu}" = cpu ]; then
  export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" JAX_NUM_CPU_DEVICES="${JAX_NUM_CPU_DEVICES:-1}"
fi
port="$("$python" -c 'import socket; print(socket.create_server(("", 0)).getsockname()[1])')"
logs="runs/logs/$module-$(date +%Y%m%d-%H%M%S)-$$" each=$((${#gpus[@]} / count))
mkdir -p "$logs"
echo "Process 0 prints here, the others into $PWD/$logs/NUMBER.log" >&2

process() { # INDEX ARGUMENTS...: one of them
  local index=$1 mine="${gpus[*]:$1*each:each}"
  shift
  ((index == 0)) || exec > "$logs/$index.log" 2>&1
  ((each == 0)) || export CUDA_VISIBLE_DEVICES="${mine// /,}"
  [ "$module" = main ] || exec "$python" -m "jax_vidpred.$module" "$@" --shard "$index/$count"
  export JAX_NUM_PROCESSES="$count" JAX_PROCESS_ID="$index"
  JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" exec "$python" -m jax_vidpred.main "$@" --distributed
}
for ((index = 0; index < count; index++)); do
  process "$index" "$@" &
  running[index]=$!
done
signal=TERM status=0 asked="" deadline=""
stop() { kill -s "$signal" "${running[@]}" 2> /dev/null || true; signal=KILL; }
trap 'asked=yes; stop' INT TERM
while ((${#running[@]})); do
  sleep 0.2 || true  # Ctrl-C reaches it, too
  for index in "${!running[@]}"; do
    ! kill -0 "${running[index]}" 2> /dev/null || continue
    ended=0 && wait "${running[index]}" || ended=$?
    unset "running[index]"
    # Who ends with 3 was left alone by another one, whose status counts.
    ((ended && (status == 0 || status == 3))) || continue
    status=$ended deadline=$((SECONDS + grace))
    [ -z "$asked" ] || continue
    ((index == 0)) || tail -n 20 "$logs/$index.log" >&2
    echo "Process $index failed with status $ended; the others are stopped in $grace s" >&2
  done
  if ((${deadline:-SECONDS + 1} <= SECONDS)); then stop; deadline=$((SECONDS + grace)); fi
done
exit "$status"
