#!/usr/bin/env bash
# What it costs to start: the commands that need no model, and loading LibTorch. Ratios against starting /bin/true.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec python3 tests/bench/startup.py
