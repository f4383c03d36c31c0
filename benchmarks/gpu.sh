#!/usr/bin/env bash
# The figures that matter on one GPU, with full-size random weights, in under ten minutes: no ROS,
# no encoders, no checkpoint. Needs torch, numpy, safetensors; python is ${PYTHON:-python3}.
#   benchmarks/gpu.sh [FOLDER]      JSON goes to FOLDER (docs/reference/benchmarks/gpu)
# 14B in bf16 takes about 56 GB: 33 of weights, 19 of memory for both branches, contexts, graphs.
set -eu
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
out=${1:-docs/reference/benchmarks/gpu}
mkdir -p "$out"

# Each part may take so long; a part that fails or is cut leaves the others their time.
chunk() {
  local limit=$1 name=$2
  shift 2
  echo "== $name"
  timeout "$limit" "${PYTHON:-python3}" benchmarks/chunk_latency.py --preset dreamzero_14b --dit-only \
    --device cuda:0 --json "$out/$name.json" "$@" || echo "gpu.sh: $name failed or was cut" >&2
}

# both branches on this device (cfg 5) and the conditional one alone (cfg 1)
chunk 300 14b_bf16_compiled --engine compiled --mode full16 static8 dynamic4 one_step --cfg 5 1 \
  --rounds 3 --budget 8
chunk 90 14b_bf16_eager --mode static8 --cfg 5 --rounds 3 --budget 10
chunk 200 14b_fp8_compiled --engine compiled --precision fp8 --mode dynamic4 one_step --cfg 5 1 \
  --rounds 5 --budget 8
