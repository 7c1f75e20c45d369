#!/usr/bin/env bash
# The filter bank against others', per thread. BIOPHONY_PEERS: a Python that has torchaudio, kaldi-native-fbank, or both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cmake --build build --target bench_fbank >/dev/null
exec "${BIOPHONY_PEERS:-python3}" tests/bench/fbank.py build/bin/bench_fbank
