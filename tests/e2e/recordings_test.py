"""Recordings on the disk: what happens when they change, during a run and between runs."""

import json
import os
import shutil
import time
import unittest

from support import TINY, Folder, write_wav

FEATURES = "nodes/feat/features.safetensors"


class Recordings(unittest.TestCase):
    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.__exit__)
        self.rows = []
        for i in range(8):
            self.add(i)
        self.folder.write("p.json", {"biophony": 1, "nodes": {
            "base": {"use": "encoder:beats", "with": TINY},
            "clips": {"use": "dataset:table", "with": {"file": "clips.csv"}},
            "feat": {"use": "features", "in": {"encoder": "base", "data": "clips"}},
        }, "outputs": {"features": "feat"}})

    def add(self, number):
        write_wav(self.sound(number), 1.0, 16000, 300 + 60 * number)
        self.rows.append(f"sounds/{number}.wav,{'ab'[number % 2]}")
        self.write_rows()

    def write_rows(self):
        self.folder.write("clips.csv", "\n".join(["path,label", *self.rows]) + "\n")

    def sound(self, number):
        return self.folder.path / "sounds" / f"{number}.wav"

    def run_it(self, *arguments, status=0):
        result = self.folder.run("run", "p.json", "--threads", "1", *arguments)
        self.assertEqual(result.returncode, status, result.stdout + result.stderr)
        return result

    def keys(self, run):
        return {node["id"]: node["key"] for node in json.loads((self.folder.path / run / "manifest.json").read_text())["nodes"]}

    def features(self, run):
        return (self.folder.path / run / FEATURES).read_bytes()

    def test_one_that_changed_since_it_was_looked_at_makes_nothing(self):
        self.run_it("--out", "first")
        good, key = self.features("first"), self.keys("first")["clips"]
        shutil.rmtree(self.folder.path / "store")
        self.run_it("--out", "second", "--to", "clips", "--to", "base")
        kept = self.sound(3).read_bytes()
        write_wav(self.sound(3), 1.0, 16000, 5000.0)
        node = ["run-node", "p.json", "feat", "--threads", "1", "--given", f"clips={key}"]
        refused = self.folder.run(*node)
        self.assertEqual(refused.returncode, 1, refused.stdout)
        self.assertRegex(refused.stderr, r"sounds/3\.wav.*changed since the data set 'clips' was looked at")
        self.assertIn("feat", refused.stderr)
        self.sound(3).write_bytes(kept)
        self.run_it("--out", "third")
        self.assertEqual(self.features("third"), good)

        # In the middle of a run, whoever makes the nodes: here the program that launches them writes to the file.
        shutil.rmtree(self.folder.path / "store")
        write_wav(self.folder.path / "other.wav", 1.0, 16000, 5000.0)
        launcher = self.folder.write(
            "launcher", '#!/bin/sh\ncase "$*" in *"run-node "*" feat "*) cat other.wav > sounds/3.wav;; esac\nexec "$@"\n')
        launcher.chmod(0o755)
        failed = self.run_it("--out", "fourth", "--launch", launcher, status=1)
        self.assertIn("changed since the data set 'clips' was looked at", failed.stderr)
        self.sound(3).write_bytes(kept)
        self.run_it("--out", "fifth")
        self.assertEqual(self.features("fifth"), good)

    def test_same_size_and_time_are_not_the_same_file(self):
        time.sleep(2.1)  # what is remembered at all
        self.run_it("--out", "first")
        before = os.stat(self.sound(3))
        with open(self.sound(3), "r+b") as file:
            file.seek(100)
            file.write(bytes(before.st_size - 100))
        os.utime(self.sound(3), ns=(before.st_atime_ns, before.st_mtime_ns))
        self.run_it("--out", "second")
        self.assertNotEqual(self.keys("first")["clips"], self.keys("second")["clips"])
        self.assertNotEqual(self.features("first"), self.features("second"))

    def test_explain_says_which_changed(self):
        self.run_it("--out", "first")
        write_wav(self.sound(3), 1.0, 16000, 5000.0)
        del self.rows[0]
        self.add(8)
        told = ["1 recording is new (sounds/8.wav)", "1 recording is gone (sounds/0.wav)", "1 recording changed (sounds/3.wav)"]
        found = self.folder.run("explain", "p.json", "clips", "--threads", "1", "--format", "json")
        self.assertEqual(json.loads(found.stdout)["other"]["found"], told)
        text = self.folder.run("explain", "p.json", "feat", "--threads", "1").stdout
        for line in told:
            self.assertIn(line, text)

    def test_what_a_run_looks_at_is_in_use(self):
        self.run_it("--out", "first")
        for path in (self.folder.path / "store" / "objects").glob("*/*/result.json"):
            os.utime(path, (1000, 1000))
        self.run_it("--out", "first")
        pruned = self.folder.run("cache", "prune", "--older-than", "1d", "--dry-run", "--format", "json")
        self.assertEqual(json.loads(pruned.stdout)["removed"], [])


if __name__ == "__main__":
    unittest.main()
