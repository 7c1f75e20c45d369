#!/usr/bin/env bash
# What it costs to say why: plan and explain on a thousand nodes, with a store of a thousand and of five thousand results.
# Ratios against check, which reads the same pipeline and looks at no store.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec python3 tests/bench/plan.py
