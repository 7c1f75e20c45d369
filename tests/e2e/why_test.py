"""plan, explain, graph, cache and diff, through the program, on one small pipeline that ran twice."""

import fcntl
import json
import os
import shutil
import subprocess
import unittest

from support import Folder, tiny_pipeline

# What the table compares is trained alike, so all three change together.
LONGER = ["--set", "expert.epochs=3", "--set", "joint.epochs=3"]


class Why(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Folder()
        cls.folder.write("p.json", tiny_pipeline())
        for arguments in (["--out", "one"], ["--out", "two", *LONGER, "--set", "model.strength=2"]):
            run = cls.folder.run("run", "p.json", "--threads", "1", *arguments)
            assert run.returncode == 0, run.stderr

    @classmethod
    def tearDownClass(cls):
        cls.folder.__exit__()

    def json(self, *arguments, status=0):
        result = self.folder.run(*arguments, "--format", "json")
        self.assertEqual(result.returncode, status, result.stderr)
        return json.loads(result.stdout)

    def refused(self, *arguments, says):
        result = self.folder.run(*arguments)
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        self.assertIn(says, result.stderr)

    def test_plan_tells_states_reasons_and_times(self):
        plan = self.json("plan", "p.json", "--threads", "1", "--set", "model.strength=3")
        nodes = {node["id"]: node for node in plan["nodes"]}
        self.assertEqual(nodes["clips[frog]"]["state"], "looks")
        self.assertEqual(nodes["merged"]["state"], "cached")
        self.assertTrue((self.folder.path / nodes["merged"]["folder"] / "encoder.safetensors").exists())
        # The nearer of the two earlier results is the one of the same encoder, which had the default strength.
        self.assertEqual((nodes["model"]["state"], nodes["model"]["reason"]), ("run", "parameter strength is new: 3"))
        self.assertEqual(nodes["score"]["reason"], "waits for model")
        self.assertEqual(nodes["score"]["waits"], ["model"])
        self.assertIsNone(nodes["score"]["key"])
        self.assertEqual(nodes["score"]["inputs"]["model"], ["model"])
        self.assertEqual(plan["to_run"], sum(node["state"] == "run" for node in nodes.values()))
        self.assertGreater(plan["seconds"], 0)
        text = self.folder.run("plan", "p.json", "--threads", "2").stdout
        self.assertRegex(text, r"\nrun +expert\[frog\] +fine-tune +<1 s  threads 1 → 2; waits for base "
                               r"\[whole model, gradients, optimiser, sound of the train clips(, about [\d.]+ [kM]B)?\]\n")
        self.assertRegex(text, r"\n43 of 45 nodes to run, (about \d+|under 1) s\n +\d+  threads 1 → 2\n")
        self.assertRegex(text, r"\n\S+ holds most in memory: .+; results take about [\d.]+ [kM]B on the disk")
        self.assertTrue(plan["fits"])
        self.assertGreater(plan["free_bytes"], plan["bytes"])
        self.assertGreater(plan["bytes"], 0)
        part = self.json("plan", "p.json", "--threads", "1", "--set", "model.strength=3", "--from", "model", "--to", "score")
        self.assertEqual([node["id"] for node in part["nodes"]], ["model", "score"])
        self.refused("plan", "p.json", "--only", "scor", says="--only: there is no node 'scor'; did you mean 'score'?")
        for command in (["plan", "p.json"], ["explain", "p.json", "score"]):
            self.refused(*command, "--out", "x", says="unknown option '--out'")
        self.refused("plan", "p.json", "--format", "jsn", says="expected text or json; did you mean 'json'?")

    def test_what_programs_read_has_schemas(self):
        options = ["--threads", "1", "--format", "json"]
        for name, arguments in (
            ("plan", ["plan", "p.json", *options, *LONGER, "--set", "model.strength=3"]),
            ("plan", ["plan", "p.json", *options]),
            ("explain", ["explain", "p.json", "score", *options, *LONGER, "--set", "clips.recordings=6"]),
            ("explain", ["explain", "p.json", "expert[frog]", *options]),
            ("graph", ["graph", "p.json", "--format", "json"]),
            ("run", ["run", "p.json", *options, "--out", "one"]),
        ):
            text = self.folder.run(*arguments).stdout
            file = self.folder.write("told.json", text)
            checked = self.folder.run("schema", name, "--check", file)
            self.assertEqual(checked.returncode, 0, checked.stderr + text)
        told = json.loads(text)
        self.assertEqual((told["state"], told["nodes"], told["made"] + told["cached"]), ("finished", 45, 45))
        self.assertEqual(told["reports"], [told["out"] + "/nodes/table/table.txt"])
        self.assertTrue(os.path.samefile(told["out"], self.folder.path / "one"))

    def test_a_planned_key_is_the_run_s(self):
        keys = {node["id"]: node["key"] for node in self.json("plan", "p.json", "--threads", "1")["nodes"]}
        manifest = json.loads((self.folder.path / "one" / "manifest.json").read_text())
        for node in manifest["nodes"]:
            self.assertEqual(keys[node["id"]], node["key"], node["id"])

    def test_explain_goes_down_to_the_cause(self):
        text = self.folder.run("explain", "p.json", "score", "--threads", "1", "--set", "clips.recordings=6", *LONGER).stdout
        self.assertIn("to run: input data: clips[frog] and clips[cricket] changed", text)
        self.assertIn("clips[frog]: parameter recordings: 5 → 6", text)
        self.assertIn("expert[frog]: because of its inputs\n", text)
        record = self.json("explain", "p.json", "expert[frog]", "--threads", "1")
        self.assertEqual(record["state"], "cached")
        self.assertEqual([change["words"] for change in record["other"]["changes"]], ["parameter epochs: 3 → 2"])
        self.assertEqual(record["record"]["params"]["epochs"], 2)
        self.refused("explain", "p.json", "exprt[frog]", says="did you mean 'expert[frog]'?")
        self.refused("explain", "p.json", "expert", says="stands for 2 nodes, expected one of them, like 'expert[frog]'")
        self.refused("explain", "p.json", says="an argument is missing")

    def test_graphs(self):
        dot = self.folder.run("graph", "p.json").stdout
        self.assertIn('[label="expert[frog]\\nfine-tune", shape=box', dot)
        if shutil.which("dot"):
            subprocess.run(["dot", "-Tsvg"], input=dot, text=True, check=True, capture_output=True)
        collapsed = self.folder.run("graph", "p.json", "--collapsed", "--format", "mermaid").stdout
        self.assertIn('["expert[taxon] × 2<br/>fine-tune"]', collapsed)
        graph = self.json("graph", "p.json", "--collapsed")
        self.assertEqual({node["id"]: node["count"] for node in graph["nodes"]}["vector[taxon]"], 2)
        self.refused("graph", "p.json", "--format", "dto", says="expected dot, mermaid or json; did you mean 'dot'?")

    def test_the_store_is_kept(self):
        listed = self.json("cache", "list")
        self.assertEqual(sum(kind["results"] for kind in listed["types"].values()), len(listed["results"]))
        self.assertEqual(listed["types"]["fine-tune"]["results"], 6)
        self.assertEqual(self.json("cache", "verify")["broken"], [])
        # On a copy: what is broken is found and can be removed, and the next run makes it again.
        copy = self.folder.path / "copy"
        shutil.copytree(self.folder.path / "store", copy)
        plan = self.json("plan", "p.json", "--threads", "1", "--store", copy)
        folder = next(node["folder"] for node in plan["nodes"] if node["id"] == "merged")
        path = os.path.join(folder, "encoder.safetensors")
        os.chmod(path, 0o644)
        with open(path, "r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
        found = self.json("cache", "verify", "--store", copy, status=1)
        self.assertEqual([(one["node"], one["faults"]) for one in found["broken"]], [("merged", ["encoder.safetensors was changed"])])
        self.json("cache", "verify", "--store", copy, "--remove", status=1)
        self.json("cache", "verify", "--store", copy)
        again = self.folder.run("run", "p.json", "--threads", "1", "--store", copy, "--out", "again")
        self.assertIn(" 3 made", again.stdout)  # merged, and the two data sets, which are looked at

        # Nothing goes while somebody uses the store.
        with open(copy / "lock", "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            busy = self.folder.run("cache", "prune", "--store", copy, "--keep-bytes", "0")
            self.assertEqual(busy.returncode, 1)
            self.assertIn("why_test", busy.stderr)
            self.assertIn(f"(process {os.getpid()})", busy.stderr)
        before = len(self.json("cache", "list", "--store", copy)["results"])
        dry = self.json("cache", "prune", "--store", copy, "--keep-bytes", "100kB", "--dry-run")
        done = self.json("cache", "prune", "--store", copy, "--keep-bytes", "100kB")
        self.assertEqual(dry["removed"], done["removed"])
        left = self.json("cache", "list", "--store", copy)
        self.assertLessEqual(left["bytes"], 100_000)
        self.assertEqual(len(left["results"]) + len(done["removed"]), before)
        self.assertEqual(self.json("cache", "prune", "--store", copy, "--older-than", "1d")["removed"], [])
        for arguments, says in (
            (["prune"], "expected one of them or both"),
            (["prune", "--older-than", "3 weeks"], "--older-than: found '3 weeks', expected a duration like 30d"),
            (["prune", "--keep-bytes", "lots"], "--keep-bytes: found 'lots', expected a size like 10GB"),
            (["list", "--remove"], "--remove belongs to 'cache verify'"),
            (["verfy"], "did you mean 'verify'?"),
            (["list", "--store", "nowhere"], "there is no such store"),
        ):
            self.refused("cache", *arguments, says=says)
        self.assertFalse((self.folder.path / "nowhere").exists())

    def test_runs_are_compared(self):
        self.assertIn("no difference", self.folder.run("diff", "one", "one", "--exit-code").stdout)
        text = self.folder.run("diff", "one", "two").stdout
        self.assertRegex(text, r"expert\[frog\]\n    params.epochs  2 → 3\n")
        self.assertRegex(text, r"model\n    params.strength  \(none\) → 2\n")
        self.assertEqual(self.folder.run("diff", "one", "two", "--exit-code").returncode, 1)
        found = self.json("diff", "one", "two")
        self.assertTrue(found["differ"])
        self.assertEqual((found["plugins"], found["environment"], found["data"]), ([], [], []))
        self.assertIn("expert[frog]", found["results"])
        self.refused("diff", "one", "store", says="is no run directory")


if __name__ == "__main__":
    unittest.main()
