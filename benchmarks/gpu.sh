#!/usr/bin/env bash
# Main latencies on one GPU with full-size random weights, in 8 minutes, without ROS or checkpoint.
#   benchmarks/gpu.sh [FOLDER] [--device cuda:0] [--dry-run]
# What it measures, writes and needs: benchmarks/first_gpu_run/gpu.py. Python is ${PYTHON:-python3}.
set -eu
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
# kernels compiled for one part serve all others, and the next run
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/wam/inductor}
exec "${PYTHON:-python3}" "$root/benchmarks/first_gpu_run/gpu.py" "$@"
