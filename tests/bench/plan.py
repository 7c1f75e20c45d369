"""plan, explain and cache list: median of 7 runs each, interleaved, warm page cache; ratios to check in the same run."""

import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

ROUNDS = 7
VALUES = 500  # of the axis; two nodes each
COPIES = 4
PROGRAM = pathlib.Path("build/bin/biophony").resolve()
ENCODER = {"encoder_layers": 1, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2, "embed_dim": 32,
           "conv_pos": 16, "conv_pos_groups": 4, "num_buckets": 32, "max_distance": 80, "window_seconds": 1.0}
PIPELINE = {
    "biophony": 1, "name": "many", "axes": {"k": [round(0.001 * k, 3) for k in range(1, VALUES + 1)]},
    "nodes": {
        "base": {"use": "encoder:beats", "with": ENCODER},
        "clips": {"use": "dataset:synthetic", "with": {"group": "frog", "species": 2, "recordings": 5, "clips": 1, "clip_seconds": 1.0}},
        "expert": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips"}, "with": {"recipe": "small", "epochs": 1}},
        "vector": {"use": "task-vector", "in": {"base": "base", "model": "expert"}},
        "merged[k]": {"use": "compose", "in": {"base": "base", "vectors": ["vector"]},
                      "with": {"stages": [{"use": "merger:task-arithmetic", "with": {"lambda_mean": "{k}"}}]}},
        "features[k]": {"use": "features", "in": {"encoder": "merged[k]", "data": "clips"}},
    },
}


def multiply(store):
    """Four more results of each node, made with other seeds, the files linked."""
    for folder in [folder for part in (store / "objects").iterdir() for folder in part.iterdir()]:
        result = json.loads((folder / "result.json").read_text())
        for copy in range(COPIES):
            key = hashlib.sha256(f"{result['key']} {copy}".encode()).hexdigest()
            target = store / "objects" / key[:2] / key
            target.mkdir(parents=True)
            for file in result["files"]:
                os.link(folder / file["name"], target / file["name"])
            record = dict(result["record"], seed=100 + copy)
            (target / "result.json").write_text(json.dumps(dict(result, key=key, record=record), indent=2))


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        environment = dict(os.environ, BIOPHONY_CACHE=str(folder / "cache"), BIOPHONY_STORE=str(folder / "store"))
        (folder / "p.json").write_text(json.dumps(PIPELINE))

        def run(*arguments):
            begin = time.perf_counter()
            subprocess.run([str(PROGRAM), *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            return time.perf_counter() - begin

        def measure(title, commands):
            times = {name: [] for name in commands}
            for _ in range(ROUNDS):
                for name, arguments in commands.items():
                    times[name].append(run(*arguments))
            floor = statistics.median(times["check"])
            print(f"{title:<45} {'median ms':>10} {'ratio':>7}")
            for name, values in times.items():
                print(f"  {name:<43} {1000 * statistics.median(values):>10.0f} {statistics.median(values) / floor:>7.1f}")

        run("run", "p.json", "--threads", "1", "--out", "run")
        check = {"check": ["check", "p.json"]}
        measure(f"{2 * VALUES + 4} nodes and results", check | {"plan, all cached": ["plan", "p.json", "--threads", "1"]})
        multiply(folder / "store")
        measure(f"{2 * VALUES + 4} nodes, {(1 + COPIES) * (2 * VALUES + 4)} results", check | {
            "plan, all cached": ["plan", "p.json", "--threads", "1"],
            "plan, all to run": ["plan", "p.json", "--threads", "2"],
            "explain one": ["explain", "p.json", "features[0.25]", "--threads", "2"],
            "cache list": ["cache", "list"],
        })


if __name__ == "__main__":
    main()
