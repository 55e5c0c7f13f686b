#!/bin/bash
# processes.sh N ANSWERS MODEL OUT [OPTIONS]: N processes of one thread on this machine, and the merge
set -euo pipefail
export OMP_NUM_THREADS=1
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT    # if one fails, or at Ctrl-C, the others end too
for i in $(seq 2 "$1"); do
    persona-vectors extract "$2" --model "$3" --out "$4" --shard "$i/$1" "${@:5}" &
    pids+=($!)
done
parts=$(persona-vectors extract "$2" --model "$3" --out "$4" --shard "1/$1" "${@:5}")
for p in "${pids[@]}"; do wait "$p"; done
while read -r p; do persona-vectors merge "$p"; done <<<"$parts"    # of each model
