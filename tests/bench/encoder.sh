#!/usr/bin/env bash
# A full-size BEATs encoder against the official Python code with the same LibTorch and threads. The peer is found in
# BIOPHONY_PEER_BEATS, a folder with BEATs.py, backbone.py and modules.py (microsoft/unilm, beats/).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cmake --build build --target bench_encoder >/dev/null
python=${BIOPHONY_PEERS:-.deps/venv/bin/python}
[[ -x $python ]] || python=python3
exec "$python" tests/bench/encoder.py "$@"
