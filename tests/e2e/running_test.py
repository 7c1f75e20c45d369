"""The command line of running: slices, keep-going, launching, single nodes, Ctrl-C, two runs at once."""

import json
import os
import signal
import subprocess
import time
import unittest

from support import PROGRAM, TINY, Folder, tiny_pipeline, write_wav


def states(folder, run="run"):
    return {n["id"]: n["state"] for n in json.loads((folder.path / run / "manifest.json").read_text())["nodes"]}


class Running(unittest.TestCase):
    def test_slices_and_single_nodes(self):
        with Folder() as folder:
            folder.write("p.json", tiny_pipeline())
            ran = folder.run("run", "p.json", "--out", "run", "--only", "merged")
            self.assertEqual(ran.returncode, 2)
            self.assertIn("--to 'vector[cricket]'", ran.stderr)
            self.assertIn("aren't there: base, vector[frog], vector[cricket];", ran.stderr)
            ran = folder.run("run", "p.json", "--out", "run", "--to", "vector")
            self.assertEqual(ran.returncode, 0, ran.stderr)
            found = states(folder)
            self.assertEqual(found["vector[frog]"], "made")
            self.assertEqual(found["table"], "not selected")
            ran = folder.run("run", "p.json", "--out", "run", "--from", "merged", "--to", "score")
            self.assertEqual(ran.returncode, 0, ran.stderr)
            found = states(folder)
            self.assertEqual((found["score"], found["vector[frog]"], found["joint"]), ("made", "taken", "not selected"))
            ran = folder.run("run", "p.json", "--out", "run", "--to", "scoer")
            self.assertEqual(ran.returncode, 2)
            self.assertIn("did you mean 'score'?", ran.stderr)

            ran = folder.run("run-node", "p.json", "features:merged:clips[frog]")
            self.assertEqual(ran.returncode, 0, ran.stderr)
            told = json.loads(ran.stdout)
            self.assertEqual((told["node"], told["state"]), ("features:merged:clips[frog]", "cached"))
            ran = folder.run("run-node", "p.json", "features:merged:clips[frog]", "--no-cache")
            self.assertEqual(json.loads(ran.stdout)["digest"], told["digest"])
            self.assertEqual(json.loads(ran.stdout)["state"], "made")
            ran = folder.run("run-node", "p.json", "features:joint:clips[frog]")
            self.assertEqual(ran.returncode, 1)
            self.assertIn("the input 'joint' isn't in the store", ran.stderr)
            self.assertIn("biophony run FILE --to 'joint'", ran.stderr)
            ran = folder.run("run-node", "p.json", "features:merged:clips")
            self.assertEqual(ran.returncode, 2)
            self.assertIn("did you mean one of features:merged:clips[", ran.stderr)

    def test_launched_nodes_make_the_same_bytes(self):
        with Folder() as folder:
            nodes = tiny_pipeline()
            del nodes["nodes"]["table"], nodes["nodes"]["joint"]
            folder.write("p.json", nodes)
            for run, more in (("here", ["--jobs", "1"]), ("there", ["--launch", "env SOMETHING=1", "--jobs", "3"])):
                ran = folder.run("run", "p.json", "--out", run, "--store", run + "-store", "--threads", "2", *more)
                self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertEqual(folder.results("here"), folder.results("there"))
            self.assertGreater(len(folder.results("there")), 10)
            # What a launched node says is told, and its error is the run's.
            nodes["nodes"]["bad"] = {"use": "dataset:table", "with": {"file": "bad.csv"}}
            nodes["nodes"]["tuned"] = {"use": "fine-tune", "in": {"encoder": "base", "data": "bad"}, "with": {"epochs": 1}}
            folder.write("bad.csv", "path,label\nabsent.wav,a\n")
            folder.write("bad.json", nodes)
            ran = folder.run("run", "bad.json", "--out", "bad", "--store", "there-store", "--threads", "2", "--launch", "env",
                             "--keep-going")
            self.assertEqual(ran.returncode, 1, ran.stderr)
            errors = [line for line in ran.stderr.splitlines() if line.startswith("biophony: ")]
            self.assertEqual(len(errors), 1)
            self.assertEqual(errors[0].count("node bad"), 1, errors)
            self.assertIn("no clip can be used", errors[0])
            self.assertEqual(states(folder, "bad")["score"], "cached")

    def test_keep_going(self):
        with Folder() as folder:
            pipeline = tiny_pipeline()
            pipeline["nodes"]["clips[taxon]"]["with"]["recordings"] = 5
            pipeline["nodes"]["broken"] = {"use": "dataset:table", "with": {"file": "broken.csv"}}
            pipeline["nodes"]["tuned"] = {"use": "fine-tune", "in": {"encoder": "base", "data": "broken"}}
            folder.write("broken.csv", "path,label\nabsent.wav,a\n")
            folder.write("p.json", pipeline)
            ran = folder.run("run", "p.json", "--out", "run", "--keep-going")
            self.assertEqual(ran.returncode, 1, ran.stderr)
            manifest = json.loads((folder.path / "run/manifest.json").read_text())
            nodes = {n["id"]: n for n in manifest["nodes"]}
            self.assertEqual(manifest["state"], "failed")
            self.assertEqual(nodes["broken"]["state"], "failed")
            self.assertIn("no clip can be used", nodes["broken"]["error"])
            self.assertEqual(nodes["tuned"]["state"], "blocked")
            self.assertEqual(nodes["tuned"]["error"], "waits for broken, which failed")
            self.assertEqual({n["state"] for i, n in nodes.items() if i not in ("broken", "tuned")}, {"made"})

    def interrupt(self, folder, began, arguments=()):
        """Ctrl-C as soon as a node whose name begins so has started; seconds until the end."""
        process = subprocess.Popen(
            [str(PROGRAM), "run", "p.json", "--out", "run", *arguments], cwd=folder.path, env=folder.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        log = folder.path / "run" / "log.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")] if log.exists() else []
            if any(line["event"] == "started" and line["node"].startswith(began) for line in lines):
                break
            time.sleep(0.02)
        else:
            process.kill()
            self.fail(f"{began} never started: {process.communicate()[1]}")
        time.sleep(0.7)
        self.assertIsNone(process.poll(), "the node was too quick to be interrupted")
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
        seconds = time.monotonic() - begin
        self.assertEqual(process.returncode, 4, error)
        self.assertEqual(error.splitlines()[-1], "biophony: cancelled")
        manifest = json.loads((folder.path / "run/manifest.json").read_text())
        self.assertEqual(manifest["state"], "cancelled")
        found = {n["id"]: n["state"] for n in manifest["nodes"]}
        self.assertIn("cancelled", {state for node, state in found.items() if node.startswith(began)})
        for record in (folder.path / "store/objects").glob("*/*"):
            self.assertTrue((record / "result.json").exists())
        return seconds

    def test_control_c_in_training_and_pretraining(self):
        for node in ("expert", "pretrained"):
            with self.subTest(node), Folder() as folder:
                pipeline = tiny_pipeline()
                pipeline["nodes"] = {n: pipeline["nodes"][n] for n in ("base", "clips[taxon]", "pretrained", "expert[taxon]")}
                if node == "expert":
                    del pipeline["nodes"]["pretrained"]
                else:
                    del pipeline["nodes"]["expert[taxon]"]
                    pipeline["nodes"]["pretrained"]["with"]["steps"] = 100000
                pipeline["nodes"]["clips[taxon]"]["with"]["recordings"] = 40
                if node == "expert":
                    pipeline["nodes"]["expert[taxon]"]["with"]["epochs"] = 5000
                folder.write("p.json", pipeline)
                for more in ([], ["--launch", "env"]):
                    seconds = self.interrupt(folder, node, more)
                    self.assertLess(seconds, 2.0, more)

    def test_control_c_while_a_data_set_is_decoded(self):
        with Folder() as folder:
            # A file that takes long to look at: many recordings, each read and hashed.
            rows = ["path,label"]
            write_wav(folder.path / "sounds" / "0.wav", seconds=20, rate=48000)
            for i in range(4000):
                name = folder.path / "sounds" / f"{i}.wav"
                if i:
                    os.link(folder.path / "sounds" / "0.wav", name)
                rows.append(f"sounds/{i}.wav,{'ab'[i % 2]}")
            folder.write("clips.csv", "\n".join(rows) + "\n")
            folder.write("p.json", {
                "biophony": 1, "nodes": {
                    "base": {"use": "encoder:beats", "with": TINY},
                    "clips": {"use": "dataset:table", "with": {"file": "clips.csv"}},
                    "expert": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips"}}}})
            self.assertLess(self.interrupt(folder, "clips"), 2.0)

    def test_two_runs_in_one_directory(self):
        with Folder() as folder:
            pipeline = tiny_pipeline()
            pipeline["nodes"] = {n: pipeline["nodes"][n] for n in ("base", "clips[taxon]", "expert[taxon]")}
            pipeline["nodes"]["expert[taxon]"]["with"]["epochs"] = 5000
            folder.write("p.json", pipeline)
            first = subprocess.Popen([str(PROGRAM), "run", "p.json", "--out", "run"], cwd=folder.path, env=folder.environment,
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                while not (folder.path / "run/log.jsonl").exists():
                    time.sleep(0.02)
                second = folder.run("run", "p.json", "--out", "run")
                self.assertEqual(second.returncode, 2)
                self.assertIn(f"another run (process {first.pid}) writes to this folder", second.stderr)
                # On one store both go on.
                third = folder.run("run", "p.json", "--out", "other", "--to", "clips")
                self.assertEqual(third.returncode, 0, third.stderr)
            finally:
                first.send_signal(signal.SIGKILL)
                first.wait()


if __name__ == "__main__":
    unittest.main()
