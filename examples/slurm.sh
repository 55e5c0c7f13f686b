#!/bin/bash
#SBATCH --array=1-8
#SBATCH --gpus-per-task=1
#SBATCH --requeue
# sbatch slurm.sh ANSWERS MODEL OUT [OPTIONS]: a shard a task; one that is stopped goes on where it was.
# When all are done: persona-vectors merge OUT/data/persona_vectors/NAME.parts
set -euo pipefail
persona-vectors extract "$1" --model "$2" --out "$3" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" "${@:4}"
