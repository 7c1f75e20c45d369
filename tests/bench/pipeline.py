"""Overhead per node, for tests/bench/pipeline.sh: medians of rounds in which everything is measured in turn."""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

NODES = int(os.environ.get("BIOPHONY_BENCH_NODES", "1000"))
ROUNDS = int(os.environ.get("BIOPHONY_BENCH_ROUNDS", "3"))
WIDTH = 20  # chains side by side
PROGRAM = pathlib.Path("build/bin/biophony").resolve()
TRIVIAL = pathlib.Path("build/bin/bench_pipeline").resolve()
TINY = {"encoder_layers": 1, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 16, "encoder_attention_heads": 2, "embed_dim": 16,
        "conv_pos": 16, "conv_pos_groups": 4, "num_buckets": 32, "max_distance": 80, "encoder_layerdrop": 0.0, "window_seconds": 0.5}


def arithmetic_pipeline():
    """`NODES` nodes: four that make a vector, and for each factor the vector times it."""
    return {
        "biophony": 1,
        "axes": {"factor": [i + 1 for i in range(NODES - 4)]},
        "nodes": {
            "base": {"use": "encoder:beats", "with": TINY},
            "clips": {"use": "dataset:synthetic", "with": {"group": "frog", "species": 2, "recordings": 3, "clips": 1, "clip_seconds": 0.5}},
            "expert": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips"}, "with": {"recipe": "small", "epochs": 1}},
            "v": {"use": "task-vector", "in": {"base": "base", "model": "expert"}},
            "scaled[factor]": {"use": "arithmetic", "in": {"vectors": {"v": "v"}}, "with": {"expression": "{factor}*v"}},
        },
    }


def timed(command, **more):
    begin = time.perf_counter()
    result = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)
    seconds = time.perf_counter() - begin
    if result.returncode != 0:
        raise SystemExit(f"{command}: status {result.returncode}\n{result.stderr}")
    return seconds, result.stdout


def measure(place):
    samples = {}

    def note(name, seconds):
        samples.setdefault(name, []).append(seconds)

    with tempfile.TemporaryDirectory(prefix="bph-bench-", dir=place) as name:
        folder = pathlib.Path(name).resolve()
        environment = dict(os.environ, BIOPHONY_CACHE=str(folder / "cache"), BIOPHONY_STORE=str(folder / "store"))
        environment.pop("BIOPHONY_PLUGIN_PATH", None)
        pipeline = folder / "p.json"
        pipeline.write_text(json.dumps(arithmetic_pipeline()))

        def biophony(verb, *options):
            return timed([PROGRAM, verb, pipeline, *options], cwd=folder, env=environment)

        one = ["--set", "axes.factor=[1]"]
        biophony("run", "--out", "run", "--threads", "1", *one)  # plugins are probed, and the vector is there
        for _ in range(ROUNDS):
            for file in folder.glob("round-*"):
                shutil.rmtree(file)
            shutil.copytree(folder / "store", folder / "round-store")
            note("floor", float(timed([TRIVIAL, "floor", NODES, folder / "round-floor"])[1]))
            checked, made, cached = map(float, timed([TRIVIAL, "make", NODES, WIDTH, folder / "round-trivial"])[1].split())
            note("trivial check", checked)
            note("trivial made", made)
            note("trivial cached", cached)
            rounds = ["--store", "round-store", "--threads", "1"]
            seconds, text = biophony("run", "--out", "round-run", *rounds)
            if f"{NODES} nodes: {NODES - 4} made" not in text:  # all factors but one, and the data set
                raise SystemExit(f"expected {NODES - 4} results made:\n{text[-300:]}")
            note("arithmetic made", seconds)
            for verb in ("check", "plan", "run"):
                out = ["--out", "round-run"] if verb == "run" else []
                seconds, text = biophony(verb, *out, *([] if verb == "check" else rounds))
                note(verb, seconds)
            if f"{NODES} nodes: 1 made" not in text:
                raise SystemExit(f"expected everything cached but the data set:\n{text[-300:]}")
            note("few", biophony("check", *one)[0])
    return samples


def show(samples):
    floor = statistics.median(samples["floor"])

    def row(label, key):
        median, least = statistics.median(samples[key]), min(samples[key])
        print(f"{label:<52} {1000 * median:9.1f} ({1000 * least:7.1f}) {1000 * median / NODES:8.3f} {median / floor:8.2f}")

    print(f"{'':<52} {'ms':>9} {'':>9} {'ms/node':>8} {'x floor':>8}")
    row("floor: 4 KiB written, synced, renamed, read, hashed", "floor")
    row("trivial nodes: check the text", "trivial check")
    row("trivial nodes: make all", "trivial made")
    row("trivial nodes: run again, all cached", "trivial cached")
    row("program: run, arithmetic nodes made", "arithmetic made")
    row("program: check", "check")
    row("program: plan, all cached", "plan")
    row("program: run, all cached", "run")
    row("program: check of 5 nodes", "few")


def main():
    print(f"{NODES} nodes, trivial ones in {WIDTH} chains, median of {ROUNDS} rounds (fastest in brackets)")
    print("\non the disk")
    show(measure("build"))
    if os.access("/dev/shm", os.W_OK):
        print("\nin memory, where syncing costs nothing")
        show(measure("/dev/shm"))


if __name__ == "__main__":
    main()
