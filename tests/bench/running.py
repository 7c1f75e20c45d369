"""A run of 1000 small merges: seconds a node made, seconds a node cached, against the same files made by Python."""

import os
import statistics
import sys
import time

from support import Folder, tiny_pipeline

NODES = int(sys.argv[1]) if len(sys.argv) > 1 else 1000


def floor(folder):
    """Folders and files as a run makes them: a result with its record, shown in the run directory. No program, no sync."""
    begin = time.monotonic()
    for i in range(NODES):
        made = f"{folder}/tmp-{i}"
        os.mkdir(made)
        for name in ("encoder.safetensors", "geometry.json", "geometry.csv", "result.json"):
            with open(f"{made}/{name}", "w") as out:
                out.write("x" * 1000)
        os.rename(made, f"{folder}/object-{i}")
        os.mkdir(f"{folder}/shown-{i}")
        for name in ("encoder.safetensors", "geometry.json", "geometry.csv"):
            os.link(f"{folder}/object-{i}/{name}", f"{folder}/shown-{i}/{name}")
    return time.monotonic() - begin


def main():
    whole = tiny_pipeline()
    nodes = {n: whole["nodes"][n] for n in ("base", "clips[taxon]", "expert[taxon]", "vector[taxon]")}
    nodes["merged[lambda]"] = {
        "use": "compose", "in": {"base": "base", "vectors": ["vector[*]"]},
        "with": {"stages": [{"use": "merger:task-arithmetic", "with": {"lambda_sum": "{lambda}"}}]}}
    with Folder() as folder:
        few = dict(whole["axes"], **{"lambda": [0.5]})
        folder.write("few.json", dict(whole, axes=few, nodes=nodes))
        folder.write("p.json", dict(whole, axes=dict(whole["axes"], **{"lambda": [i / NODES for i in range(NODES)]}), nodes=nodes))

        def run(*arguments):
            begin = time.monotonic()
            ran = folder.run("run", *arguments, "--out", "run")
            seconds = time.monotonic() - begin
            assert ran.returncode == 0, ran.stderr[-2000:]
            return seconds

        run("few.json")  # the training; what is left are merges
        small = run("few.json")
        made = run("p.json")
        cached = statistics.median(run("p.json") for _ in range(5))
        (folder.path / "floor").mkdir()
        files = floor(folder.path / "floor")
        print(f"{NODES} nodes made     {(made - small) / NODES * 1000:7.3f} ms a node, synced")
        print(f"{NODES} nodes cached   {cached:7.3f} s in all; of that {small:.3f} s as with one node")
        print(f"files by Python     {files / NODES * 1000:7.3f} ms a node, not synced; made/floor {(made - small) / files:.2f}")


if __name__ == "__main__":
    main()
