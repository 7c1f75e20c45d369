"""Disturbs runs, then lets one end: what is visible is always whole, and the results are the bytes of a calm run.

    kill_test.py [--mode kill|full|failing] [--rounds N] [--seed S]

kill     SIGKILL at random moments, nodes running beside each other
full     a disk with random room: a small tmpfs where one may be mounted, else a preloaded library that counts bytes
failing  a random write, sync or rename fails (a preloaded library, tests/faults): one error, status 1
"""

import argparse
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from support import BUILD, PROGRAM, Folder, tiny_pipeline

FAULTS = BUILD / "lib" / "libbiophony-test-faults.so"


def pipeline():
    """Every way in which results come about, in few nodes."""
    whole = tiny_pipeline()
    for node in ("pretrained", "joint", "table"):
        del whole["nodes"][node]
    whole["outputs"] = {"model": "model", "experts": ["expert[*]"]}
    return whole


class Work:
    """A pipeline in a folder whose subfolder w/ has the store and the run directory, and nothing else."""

    def __init__(self):
        self.folder = Folder()
        self.path = self.folder.path
        self.place = self.path / "w"
        self.place.mkdir()
        self.folder.write("p.json", pipeline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.folder.__exit__()

    def start(self, **environment):
        return subprocess.Popen(
            [str(PROGRAM), "run", "p.json", "--out", "w/run", "--store", "w/store", "--threads", "1", "--jobs", "4"],
            cwd=self.path, env=dict(self.folder.environment, **environment), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def run(self, **environment):
        process = self.start(**environment)
        error = process.communicate(timeout=300)[1]
        return process.returncode, error

    def clear(self):
        for entry in self.place.iterdir():
            shutil.rmtree(entry)

    def results(self):
        return self.folder.results("w/run")

    def problem(self):
        """What is half there, if anything."""
        objects = self.place / "store" / "objects"
        whole = set()  # the files of each result
        for folder in objects.glob("*/*"):
            record_file = folder / "result.json"
            if not record_file.exists():
                return f"{folder} is a result without its record"
            record = json.loads(record_file.read_text())
            for file in record["files"]:
                size = (folder / file["name"]).stat().st_size
                if size != file["bytes"]:
                    return f"{folder / file['name']} has {size} bytes, expected {file['bytes']}"
            whole.add(frozenset((file["name"], file["sha256"]) for file in record["files"]))
        for path in (self.place / "run").glob("*.json"):
            try:
                json.loads(path.read_text())
            except ValueError as error:
                return f"{path}: {error}"
        manifest = self.place / "run" / "manifest.json"
        if manifest.exists():  # it also has results that couldn't be synced and were taken out of the store
            for node in json.loads(manifest.read_text())["nodes"]:
                whole.add(frozenset((file["name"], file["sha256"]) for file in node.get("files", [])))

        def is_whole(folder):
            files = [path for path in folder.rglob("*") if path.is_file()]
            return frozenset((str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest())
                             for path in files) in whole

        def visible(folder):
            return [path for path in folder.glob("*") if not path.name.startswith(".")]

        for folder in visible(self.place / "run" / "nodes"):
            if not is_whole(folder):
                return f"{folder} is half there: {sorted(path.name for path in folder.rglob('*'))}"
        for folder in visible(self.place / "run" / "outputs"):
            # A list has a folder for each.
            if not is_whole(folder) and not all(path.is_dir() and is_whole(path) for path in visible(folder)):
                return f"{folder} is half there: {sorted(path.name for path in folder.rglob('*'))}"
        return None

    def left(self):
        """What a run that has ended leaves in the store beside results."""
        return [str(p) for part in ("tmp", "unsynced") for p in (self.place / "store" / part).glob("*")]


def one_error(status, text, words):
    errors = [line for line in text.splitlines() if line.startswith("biophony: ")]
    if status != 1:
        return f"ended with status {status}, expected 1: {text[-500:]}"
    if len(errors) != 1 or not any(word in text for word in words):
        return f"expected one error with one of {words}, found: {text[-500:]}"
    return None


def kill(calm, rough, options):
    finished = kills = 0
    while kills < options.rounds:
        process = rough.start()
        # Runs get shorter as results pile up, so moments are drawn from what is left of one; a run that ends before its
        # moment counts as none, and its results are thrown away to have something to kill.
        wait = random.uniform(0.02, calm.seconds if finished == 0 else calm.seconds * 0.9)
        try:
            process.communicate(timeout=wait)
            finished += 1
            rough.clear()
            continue
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
        if problem := rough.problem():
            return f"after kill {kills} ({wait:.3f} s): {problem}"
    return ends_well(calm, rough)


def ends_well(calm, rough):
    status, error = rough.run()
    if status != 0:
        return f"the run afterwards ended with status {status}: {error[-500:]}"
    expected, found = calm.results(), rough.results()
    if expected != found:
        return f"results differ: {sorted(set(expected.items()) ^ set(found.items()))[:4]}"
    if left := rough.left():
        return f"left behind: {left}"
    return None


def failing(calm, rough, options):
    preload = {"LD_PRELOAD": str(FAULTS), "BIOPHONY_FAIL_UNDER": str(rough.place) + "/",
               "BIOPHONY_FAIL_COUNT": str(rough.path / "calls")}
    status, error = rough.run(**preload)
    if status != 0:
        return f"the counted run ended with status {status}: {error[-500:]}"
    calls = int((rough.path / "calls").read_text())
    done = 0
    while done < options.rounds:
        rough.clear()
        call, number = random.randint(1, calls), random.choice([errno.EIO, errno.ENOSPC])
        status, error = rough.run(**preload, BIOPHONY_FAIL_CALL=str(call), BIOPHONY_FAIL_ERRNO=str(number))
        if int((rough.path / "calls").read_text()) < call:
            continue  # syncs come in other batches each time; this run had fewer calls
        done += 1
        where = f"call {call} of {calls}, {errno.errorcode[number]}"
        problem = one_error(status, error, [os.strerror(number)]) or rough.problem() or ends_well(calm, rough)
        if problem:
            return f"{where}: {problem}"
    print(f"  of {calls} calls each time one failed")
    return None


def full(calm, rough, options):
    size = sum(p.stat().st_blocks * 512 for p in calm.place.rglob("*") if p.is_file() and p.stat().st_nlink == 1)
    size += sum(p.stat().st_blocks * 512 for p in (calm.place / "store" / "objects").rglob("*") if p.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(rough.place)]
    tried = subprocess.run(mount, capture_output=True, text=True)
    mounted = tried.returncode == 0
    if mounted:
        subprocess.run(["umount", str(rough.place)], check=True)
        print(f"  on tmpfs, of {size >> 10} KiB that are needed")
    else:
        print(f"  no tmpfs ({tried.stderr.strip()}); writes are counted instead")
    for _ in range(options.rounds):
        room = random.randint(4096, size * 8 // 10) // 4096 * 4096
        try:
            if mounted:
                subprocess.run([*mount[:4], f"size={room}", *mount[5:]], check=True)
                status, error = rough.run()
            else:
                rough.clear()
                status, error = rough.run(LD_PRELOAD=str(FAULTS), BIOPHONY_FAIL_UNDER=str(rough.place) + "/",
                                          BIOPHONY_DISK_BYTES=str(room))
            problem = one_error(status, error, ["No space left", "are free", "free, expected at least"]) or rough.problem()
            if not problem and mounted:
                subprocess.run(["mount", "-o", f"remount,size={4 * size}", str(rough.place)], check=True)
            problem = problem or ends_well(calm, rough)
            if problem:
                return f"with room for {room} bytes of {size}: {problem}"
        finally:
            if mounted:
                subprocess.run(["umount", str(rough.place)], check=True)
    return None


def main():
    modes = {"kill": kill, "full": full, "failing": failing}
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--mode", choices=modes, default="kill")
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().randint(1, 10**6))
    options = arguments.parse_args()
    random.seed(options.seed)
    print(f"{options.mode}: {options.rounds} rounds, seed {options.seed}", flush=True)
    begin = time.monotonic()
    with Work() as calm, Work() as rough:
        calm.run()
        calm.clear()  # the plugins are known from here on
        started = time.monotonic()
        status, error = calm.run()
        if status != 0:
            print(f"the undisturbed run failed: {error}")
            return 1
        calm.seconds = time.monotonic() - started
        rough.folder.environment["BIOPHONY_CACHE"] = calm.folder.environment["BIOPHONY_CACHE"]
        problem = modes[options.mode](calm, rough, options)
        if problem:
            print(f"{options.mode}, seed {options.seed}: {problem}")
            return 1
        print(f"  undisturbed run {calm.seconds:.2f} s, {len(calm.results())} files, all bytes equal; "
              f"{time.monotonic() - begin:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
