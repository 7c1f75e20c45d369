#!/usr/bin/env bash
# What a pipeline of many small nodes costs beside the nodes' own work, against the floor: as many files of 4 KiB, each
# written, synced, renamed, read back and hashed. Trivial nodes (a program of the benchmark's that links the engine)
# show the engine alone; arithmetic on a small task vector, through the program, shows what a user sees.
# On the disk, where syncing costs most, and in memory, where it costs nothing.
# BIOPHONY_BENCH_NODES (1000) and _ROUNDS (3) change the size.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cmake --build build --target bench_pipeline >/dev/null
exec python3 tests/bench/pipeline.py
