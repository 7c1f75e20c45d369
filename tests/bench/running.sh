#!/usr/bin/env bash
# What a node costs beside its work, against a floor measured in the same run.
set -euo pipefail
cd "$(dirname "$0")/../.."
BPH_BUILD_DIR=build BPH_SOURCE_DIR=. PYTHONPATH=tests/e2e exec python3 tests/bench/running.py "$@"
