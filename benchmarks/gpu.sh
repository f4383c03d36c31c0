#!/usr/bin/env bash
# Main latencies on one GPU with full-size random weights, in less than ten minutes, without ROS,
# encoders or checkpoint. Needs torch, numpy, safetensors; python is ${PYTHON:-python3}.
#   benchmarks/gpu.sh [FOLDER]      JSON goes to FOLDER (docs/reference/benchmarks/gpu)
# 14B in bf16 needs about 56 GB: weights 33, KV caches of both branches 19, contexts and graphs.
set -eu
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
out=${1:-docs/reference/benchmarks/gpu}
mkdir -p "$out"

# Every part has its own time limit, so that a failed or slow part does not affect the others.
chunk() {
  local limit=$1 name=$2
  shift 2
  echo "== $name"
  timeout "$limit" "${PYTHON:-python3}" benchmarks/chunk_latency.py --preset dreamzero_14b --dit-only \
    --device cuda:0 --json "$out/$name.json" "$@" || echo "gpu.sh: $name failed or exceeded $limit s" >&2
}

# both branches on this device (cfg 5), and only the conditional one (cfg 1)
chunk 300 14b_bf16_compiled --engine compiled --mode full16 static8 dynamic4 one_step --cfg 5 1 \
  --rounds 3 --budget 8
chunk 90 14b_bf16_eager --mode static8 --cfg 5 --rounds 3 --budget 10
chunk 200 14b_fp8_compiled --engine compiled --precision fp8 --mode dynamic4 one_step --cfg 5 1 \
  --rounds 5 --budget 8
