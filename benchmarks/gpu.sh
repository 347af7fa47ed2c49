#!/bin/sh
# Measures the trainer on a machine with a GPU and no network: benchmarks/gpu.sh WHEELS [OUT] [option of gpu.py ...]
#
# WHEELS: a directory of wheels for this machine, as `pip wheel -w WHEELS '.[gpu]'` fills it elsewhere.
# OUT (default: gpu-results): gets the table (gpu.md), the figures (gpu.json), a trace, and the environment.
# PyTorch is measured beside the trainer where TORCH_PYTHON (default: python3) can import it.
set -eu
repo=$(cd "$(dirname "$0")/.." && pwd)
wheels=$(cd "${1:?usage: benchmarks/gpu.sh WHEELS [OUT] [option of gpu.py ...]}" && pwd)
shift
out=gpu-results
case "${1:---}" in --*) ;; *) out=$1; shift ;; esac
mkdir -p "$out"
out=$(cd "$out" && pwd)
# TensorFlow's wheel holds no machine code for the newest GPUs: the driver compiles it once, and keeps it here.
export CUDA_CACHE_PATH="${CUDA_CACHE_PATH:-$out/ptx}" CUDA_CACHE_MAXSIZE=4294967296
export TORCH_PYTHON="${TORCH_PYTHON:-python3}"
[ -x "$out/environment/bin/python" ] || python3 -m venv "$out/environment"
case " $* " in *" --device=cpu "*) extra= ;; *) extra='[gpu]' ;; esac
"$out/environment/bin/python" -m pip install --quiet --no-index --find-links "$wheels" "tower-trainer$extra"
cd "$repo"
PYTHONPATH="$repo" exec "$out/environment/bin/python" benchmarks/gpu.py --out="$out" "$@"
