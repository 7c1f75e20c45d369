"""Kills a run at random moments, then lets it end: the results must be the bytes of an undisturbed run.

    kill_test.py [--kills N] [--seed S]
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time

from support import PROGRAM, Folder, tiny_pipeline


def start(folder, run):
    return subprocess.Popen(
        [str(PROGRAM), "run", "p.json", "--out", run, "--threads", "1"], cwd=folder.path, env=folder.environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def whole(folder):
    """Every visible result is complete, whenever the run was killed."""
    for record_file in (folder.path / "store/objects").glob("*/*/result.json"):
        record = json.loads(record_file.read_text())
        for file in record["files"]:
            path = record_file.parent / file["name"]
            if path.stat().st_size != file["bytes"]:
                return f"{path} has {path.stat().st_size} bytes, expected {file['bytes']}"
    for folder_ in (folder.path / "store/objects").glob("*/*"):
        if not (folder_ / "result.json").exists():
            return f"{folder_} is a result without its record"
    return None


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    random.seed(options.seed)
    pipeline = tiny_pipeline()
    with Folder() as calm, Folder() as rough:
        for folder in (calm, rough):
            folder.write("p.json", pipeline)
        begin = time.monotonic()
        if start(calm, "run").wait() != 0:
            print("the undisturbed run failed")
            return 1
        length = time.monotonic() - begin
        kills = finished = 0
        while kills < options.kills:
            process = start(rough, "run")
            # Runs get shorter as results pile up, so moments are drawn from what is left of one; a run that ends
            # before its moment counts as none, and its results are thrown away to have something to kill.
            wait = random.uniform(0.02, length if finished == 0 else length * 0.9)
            try:
                process.wait(timeout=wait)
                finished += 1
                subprocess.run(["rm", "-rf", str(rough.path / "store"), str(rough.path / "run")], check=True)
                continue
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
            problem = whole(rough)
            if problem:
                print(f"after kill {kills} (seed {options.seed}, {wait:.3f} s): {problem}")
                return 1
        if start(rough, "run").wait() != 0:
            print("the run after the kills failed")
            return 1
        expected, found = calm.results("run"), rough.results("run")
        if expected != found:
            different = sorted(set(expected.items()) ^ set(found.items()))
            print(f"results differ after {kills} kills (seed {options.seed}): {different[:4]}")
            return 1
        left = list((rough.path / "store/tmp").iterdir())
        if left:
            print(f"left behind: {left}")
            return 1
        print(f"{kills} kills, seed {options.seed}, undisturbed run {length:.2f} s: {len(expected)} files, all bytes equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
