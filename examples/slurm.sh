#!/bin/bash
#SBATCH --gres=gpu:1
#SBATCH --requeue
# sbatch --array=1-8 slurm.sh 8 ANSWERS MODEL OUT [OPTIONS]: a shard a task; one that is stopped goes on where it was.
# One of them again: sbatch --array=3 slurm.sh 8 ... When all are done: persona-vectors merge OUT/data/persona_vectors/NAME.parts
set -euo pipefail
persona-vectors extract "$2" --model "$3" --out "$4" --shard "$SLURM_ARRAY_TASK_ID/$1" "${@:5}"
