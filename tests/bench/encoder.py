"""Ratios of a full-size BEATs encoder to the official code, and the profile that explains them. See encoder.sh.

Ours and the peer take turns, ROUNDS times, each in a process of its own; a figure is the median of their medians.
"""
import json
import os
import subprocess
import sys
import tempfile

CONFIG = {"dropout": 0.1, "attention_dropout": 0.1, "encoder_layerdrop": 0.0}  # by layer drop steps would differ
ROUNDS = int(os.environ.get("BIOPHONY_BENCH_ROUNDS", "3"))
THREADS = int(os.environ.get("BIOPHONY_BENCH_THREADS", os.cpu_count()))
PEER = os.environ.get("BIOPHONY_PEER_BEATS")


def output(command, threads, **more):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **more}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return json.loads(done.stdout) if done.stdout.strip() else {}


def ours(mode, batch, seconds, precision, repeats, threads, checkpoint):
    return output(
        ["build/bin/bench_encoder", "build/plugins", json.dumps(CONFIG), mode, str(batch), str(seconds), precision]
        + [str(repeats), str(threads), checkpoint],
        threads,
        OMP_WAIT_POLICY="PASSIVE",  # as our program sets it for itself
    )


def peer(mode, batch, seconds, precision, repeats, threads, checkpoint):
    return output(
        [sys.executable, "tests/bench/encoder_peer.py", PEER, mode, str(batch), str(seconds), precision]
        + [str(repeats), str(threads), checkpoint],
        threads,
    )


def middle(results):
    return sorted(results, key=lambda result: result["median"])[len(results) // 2]


def main():
    folder = tempfile.mkdtemp()
    checkpoint = os.path.join(folder, "random.safetensors")
    ours("save", 2, 10, "float32", 1, THREADS, checkpoint)
    print(f"12 x 768, 10 s clips, {THREADS} threads; {ROUNDS} rounds")
    if PEER:
        difference = peer("compare", 2, 10, "float32", 1, THREADS, checkpoint)["difference"]
        print(f"the peer's frames differ by {difference:.1e} at most")
        if not difference < 2e-4:
            sys.exit("ours and the peer's are not the same encoder")
    else:
        print("the peer is not there (BIOPHONY_PEER_BEATS)")
    cases = [("forward", 1, 4), ("forward", 8, 2), ("train", 1, 3), ("train", 4, 2)]
    mode_of_products = {"forward": "products", "train": "train-products"}
    print(f"{'':26}{'clips/s':>9}{'peer':>9}{'ratio':>7}{'products':>10}{'GFLOP/s':>9}{'peak MiB':>10}{'peer':>7}")
    rate = {}
    for precision in ("float32", "bf16"):
        for mode, batch, repeats in cases:
            mine, theirs, floor = [], [], []
            for _ in range(ROUNDS):
                mine.append(ours(mode, batch, 10, precision, repeats, THREADS, checkpoint))
                if PEER:
                    theirs.append(peer(mode, batch, 10, precision, repeats, THREADS, checkpoint))
                floor.append(ours(mode_of_products[mode], batch, 10, precision, repeats, THREADS, checkpoint))
            me, plain = middle(mine), middle(floor)
            rate[precision, mode, batch] = me["clips_per_second"]
            line = f"{mode + ' ' + precision + ', batch ' + str(batch):26}{me['clips_per_second']:9.2f}"
            if theirs:
                it = middle(theirs)
                line += f"{it['clips_per_second']:9.2f}{me['clips_per_second'] / it['clips_per_second']:7.2f}"
            else:
                line += f"{'-':>9}{'-':>7}"
            line += f"{plain['median'] / me['median']:9.0%} {plain['gflops']:9.0f}{me['peak_mib']:10}"
            print(line + (f"{it['peak_mib']:7}" if theirs else ""), flush=True)
    for batch in (1, 4):
        ratio = rate["bf16", "train", batch] / rate["float32", "train", batch]
        print(f"bf16 training step, batch {batch}: {ratio:.2f} x float32")
    print("products = time of the same matrix products alone, on operands that lie ready, as a share of ours")
    print("\nfine-tuning the whole model, batch 8 x 5 s, float32, peak resident MiB and clips/s")
    for mode, name in (("train", "as it is"), ("train-checkpointed", "activations computed again")):
        got = middle([ours(mode, 8, 5, "float32", 2, THREADS, checkpoint) for _ in range(ROUNDS)])
        print(f"  {name:30}{got['peak_mib']:8}{got['clips_per_second']:9.2f}", flush=True)


main()
