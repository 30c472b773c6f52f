#!/usr/bin/env bash
# From an empty machine to predictions: makes twin videos, trains all three phases,
# prints the result table and the path of a page that shows the predictions.
#
#   launch/quickstart.sh [WORKDIR]        (default runs/quickstart; run again to resume)
set -euo pipefail
began=$SECONDS
workdir="$(realpath -m "${1:-runs/quickstart}")"
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"
python=.venv/bin/python

"$python" -m jax_vidpred.main --config=configs/quickstart.py --workdir="$workdir"
"$python" -m jax_vidpred.evaluate --workdir "$workdir" --ttt_steps 10
"$python" -m jax_vidpred.predict --workdir "$workdir" \
  --videos "$workdir/requires/twin/video_test" \
  --num_context 6 --num_future 12 --start 24 --ttt_steps 10 --out "$workdir/predictions"
echo "Done in $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s." \
  "Open $workdir/predictions/index.html"
