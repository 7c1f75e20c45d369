"""The main job once, through the program: from a JSON file to the table; then again, for nothing."""

import json
import struct
import unittest

from support import Folder, tiny_pipeline


def tensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    return metadata, {name: (info, data[8 + length + info["data_offsets"][0] : 8 + length + info["data_offsets"][1]]) for name, info in header.items()}


class Walk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Folder()
        cls.folder.write("p.json", tiny_pipeline())
        cls.first = cls.folder.run("run", "p.json", "--out", "run", "--threads", "1")

    @classmethod
    def tearDownClass(cls):
        cls.folder.__exit__()

    def nodes(self):
        return self.folder.path / "run" / "nodes"

    def test_it_ran_and_printed_the_table(self):
        self.assertEqual(self.first.returncode, 0, self.first.stderr)
        for word in ("joint", "specialists", "average", "base", "gap", "frog", "cricket"):
            self.assertIn(word, self.first.stdout)

    def test_the_table_has_its_rows(self):
        table = json.loads((self.nodes() / "table" / "table.json").read_text())
        rows = {(row["model"], row["head"]) for row in table["rows"]}
        self.assertLessEqual({("joint", "own"), ("joint", "ridge"), ("specialists", "own"), ("average", "ridge"), ("base", "ridge"),
                              ("mel-statistics", "ridge")}, rows)
        by_name = {(row["model"], row["head"]): row for row in table["rows"]}
        self.assertIsNone(by_name[("specialists", "own")]["union_accuracy"])
        self.assertIsNotNone(by_name[("average", "ridge")]["gap_union"])
        self.assertIsNone(by_name[("joint", "ridge")]["gap_union"])

    def test_average_equals_task_arithmetic_at_one(self):
        (average_meta, average), (one_meta, one) = (tensors(self.nodes() / name / "encoder.safetensors") for name in ("merged", "one"))
        self.assertEqual(average.keys(), one.keys())
        for name in average:
            self.assertEqual(average[name][1], one[name][1], name)

    def test_base_plus_vector_is_the_specialist(self):
        moved = 0
        for taxon in ("frog", "cricket"):
            _, base = tensors(self.nodes() / "base" / "encoder.safetensors")
            _, vector = tensors(self.nodes() / f"vector[{taxon}]" / "task_vector.safetensors")
            _, expert = tensors(self.nodes() / f"expert[{taxon}]" / "encoder.safetensors")
            for name, (info, data) in vector.items():
                count = len(data) // 4
                values = [struct.unpack(f"<{count}f", bytes_) for bytes_ in (base[name][1], data, expert[name][1])]
                for b, d, e in zip(*values):
                    moved += d != 0
                    found = struct.unpack("<f", struct.pack("<f", b + d))[0]
                    largest = max(abs(b), abs(e))
                    mantissa = abs(struct.unpack("<i", struct.pack("<f", largest))[0])
                    ulp = struct.unpack("<f", struct.pack("<i", mantissa + 1))[0] - largest
                    self.assertLessEqual(abs(found - e), ulp, name)
        self.assertGreater(moved, 1000)  # of both: an expert that no epoch makes better stays where it started

    def test_the_pretrained_encoder_explains_itself(self):
        folder = self.nodes() / "pretrained"
        card = json.loads((folder / "pretraining.json").read_text())
        self.assertEqual([entry["step"] for entry in card["history"]], [2, 3])
        self.assertEqual([(data["group"], data["train_labels"]) for data in card["data"]], [("frog", 2), ("cricket", 2)])
        self.assertEqual(card["settings"]["masked"]["share"], 0.75)
        metadata, found = tensors(folder / "encoder.safetensors")
        self.assertEqual(json.loads(metadata["biophony.pretraining"]), {key: value for key, value in card.items() if key != "history"})
        _, base = tensors(self.nodes() / "base" / "encoder.safetensors")
        self.assertEqual(found.keys(), base.keys())
        self.assertTrue(all(found[name][1] != base[name][1] for name in base))

    def test_the_vector_explains_itself(self):
        metadata, _ = tensors(self.nodes() / "vector[frog]" / "task_vector.safetensors")
        self.assertEqual(metadata["biophony.encoder"], "encoder:beats")
        self.assertEqual(json.loads(metadata["biophony.config"])["encoder_embed_dim"], 32)
        self.assertEqual(len(json.loads(metadata["biophony.recipe"])["hash"]), 64)
        self.assertEqual(len(json.loads(metadata["biophony.labels"])), 2)
        self.assertTrue(all(len(value) == 64 for value in json.loads(metadata["biophony.base"])["tensors"].values()))

    def test_the_run_directory_explains_itself(self):
        run = self.folder.path / "run"
        manifest = json.loads((run / "manifest.json").read_text())
        self.assertEqual(manifest["state"], "finished")
        self.assertEqual({node["state"] for node in manifest["nodes"]}, {"made"})
        self.assertTrue(all(len(node["key"]) == 64 for node in manifest["nodes"]))
        self.assertLessEqual({"encoder:beats", "encoder:mel-statistics", "dataset:synthetic", "merger:average", "merger:task-arithmetic"},
                             set(json.loads((run / "lock.json").read_text())["plugins"]))
        self.assertIn("score,all,union_accuracy,", (run / "metrics.csv").read_text())
        events = [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()]
        self.assertEqual(events.count("finished"), len(manifest["nodes"]))

    def test_its_files_fit_their_schemas(self):
        self.assertGreater(self.folder.check_schemas("run"), 40)
        objects = sorted(self.folder.path.glob("store/objects/*/*/result.json"))
        self.assertEqual(self.folder.run("schema", "result", *[a for o in objects for a in ("--check", o)]).returncode, 0)

    def test_a_file_that_does_not_fit_is_told(self):
        lock = json.loads((self.folder.path / "run/lock.json").read_text())
        del lock["libtorch"]
        wrong = self.folder.write("wrong.json", lock)
        refused = self.folder.run("schema", "lock", "--check", wrong)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("wrong.json: ", refused.stderr)
        self.assertIn("libtorch", refused.stderr)
        unknown = self.folder.run("schema", "lok")
        self.assertEqual(unknown.returncode, 2)
        self.assertIn("did you mean 'lock'", unknown.stderr)

    def test_keys_know_the_plugins_whose_code_takes_part(self):
        plugins = {}
        for record in (self.folder.path / "store" / "objects").glob("*/*/result.json"):
            content = json.loads(record.read_text())
            plugins[content["node"]] = set(content["record"]["plugins"])
        self.assertEqual(plugins["merged"], {"merger:average"})
        self.assertEqual(plugins["expert[frog]"], {"encoder:beats"})
        self.assertEqual(plugins["score"], {"encoder:beats"})
        self.assertEqual(plugins["table"], set())

    def test_again_does_nothing(self):
        before = self.folder.results("run")
        again = self.folder.run("run", "p.json", "--out", "second", "--threads", "1")
        self.assertEqual(again.returncode, 0, again.stderr)
        # Data sets look at their files each time; nothing else is made.
        self.assertIn(": 2 made, ", again.stdout)
        self.assertEqual(before, self.folder.results("second"))
        plan = self.folder.run("plan", "p.json", "--threads", "1")
        self.assertIn("\n0 of ", plan.stdout)

    def test_the_effective_pipeline_runs_by_itself(self):
        again = self.folder.run("run", "run/pipeline.effective.json", "--out", "again", "--threads", "1")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertIn(": 2 made, ", again.stdout)
        self.assertEqual(self.folder.results("run"), self.folder.results("again"))

    def test_from_nothing_gives_the_same_bytes(self):
        with Folder() as other:
            other.write("elsewhere/q.json", tiny_pipeline())
            fresh = other.run("run", "elsewhere/q.json", "--out", "run", "--threads", "1")
            self.assertEqual(fresh.returncode, 0, fresh.stderr)
            self.assertEqual(self.folder.results("run"), other.results("run"))

    def test_splits_keep_recordings_together(self):
        for taxon in ("frog", "cricket"):
            data = json.loads((self.nodes() / f"clips[{taxon}]" / "dataset.json").read_text())
            units, labels = {}, {}
            for clip in data["clips"]:
                units.setdefault(data["recordings"][clip["recording"]]["unit"], set()).add(clip["split"])
                labels.setdefault(clip["label"], set()).add(clip["split"])
            self.assertTrue(all(len(splits) == 1 for splits in units.values()))
            self.assertTrue(all(splits == {"train", "valid", "test"} for splits in labels.values()))

    def test_another_parameter_remakes_what_depends_on_it(self):
        plan = self.folder.run("plan", "p.json", "--threads", "1", "--set", "model.strength=0.1")
        self.assertEqual(plan.returncode, 0, plan.stderr)
        state = {line.split()[1]: line.split()[0] for line in plan.stdout.splitlines() if len(line.split()) > 2}
        self.assertEqual(state["merged"], "cached")
        self.assertEqual(state["expert[frog]"], "cached")
        self.assertEqual(state["model"], "run")
        self.assertEqual(state["score"], "run")
        self.assertEqual(state["table"], "run")


class WithoutWeights(unittest.TestCase):
    """encoder:mel-statistics has nothing to learn; a head on it is scored as any other."""

    def test_head_and_score_but_no_fine_tuning(self):
        pipeline = tiny_pipeline(axes={"taxon": ["frog", "cricket"]})
        clips = pipeline["nodes"]["clips[taxon]"]
        pipeline["nodes"] = {
            "clips[taxon]": clips,
            "mel": {"use": "encoder:mel-statistics", "with": {"window_seconds": 1.0}},
            "model": {"use": "head", "in": {"encoder": "mel", "data": ["clips[*]"]}, "with": {"pooling": "bands"}},
            "score": {"use": "evaluate", "in": {"model": "model", "data": ["clips[*]"]}},
            "table": {"use": "table", "in": {"scores": ["score"], "base": "mel"}},
        }
        with Folder() as folder:
            folder.write("p.json", pipeline)
            run = folder.run("run", "p.json", "--out", "run", "--threads", "1")
            self.assertEqual(run.returncode, 0, run.stderr)
            self.assertIn("ridge, bands", run.stdout)
            nodes = folder.path / "run" / "nodes"
            metadata, encoder = tensors(nodes / "mel" / "encoder.safetensors")
            self.assertEqual((metadata["biophony.encoder"], encoder), ("encoder:mel-statistics", {}))
            metadata, head = tensors(nodes / "model" / "head.safetensors")
            self.assertEqual(json.loads(metadata["biophony.head"])["pooling"], "bands")
            self.assertEqual(head["weight"][0]["shape"], [4, 256])
            self.assertTrue((nodes / "score" / "metrics.json").exists())
            pipeline["nodes"]["tuned"] = {"use": "fine-tune", "in": {"encoder": "mel", "data": ["clips[*]"]}}
            folder.write("p.json", pipeline)
            refused = folder.run("run", "p.json", "--out", "again", "--threads", "1")
            self.assertEqual(refused.returncode, 1)
            self.assertIn("has no parameters, so there is nothing to fine-tune", refused.stderr)

    def test_bands_of_a_network(self):
        pipeline = tiny_pipeline()
        nodes = pipeline["nodes"]
        for name in [name for name in nodes if not name.startswith(("base", "clips"))]:
            del nodes[name]
        pipeline["axes"].pop("lambda")
        for pooling in ("mean", "bands"):
            nodes[pooling] = {"use": "head", "in": {"encoder": "base", "data": ["clips[*]"]}, "with": {"pooling": pooling}}
            nodes["score." + pooling] = {"use": "evaluate", "in": {"model": pooling, "data": ["clips[*]"]}}
        with Folder() as folder:
            folder.write("p.json", pipeline)
            run = folder.run("run", "p.json", "--out", "run", "--threads", "1")
            self.assertEqual(run.returncode, 0, run.stderr)
            for pooling, width in (("mean", 32), ("bands", 256)):
                _, head = tensors(folder.path / "run" / "nodes" / pooling / "head.safetensors")
                self.assertEqual(head["weight"][0]["shape"], [4, width])


if __name__ == "__main__":
    unittest.main()
