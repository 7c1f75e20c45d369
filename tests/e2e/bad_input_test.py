"""What users get wrong: one clear message, the designed exit status, nothing half-written, the host alive."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time
import unittest

from support import BUILD, PROGRAM, TINY, Folder, tiny_pipeline, write_wav

ZOO = BUILD / "tests" / "zoo" / "animals"

# One cache for all tests of this file: what libraries hold is found out once, not once a test. One animal of the zoo
# hangs until the program gives up on it, ten seconds; that is waited for beside the other tests.
shared = None
zoo_seen = None


def setUpModule():
    global shared, zoo_seen
    shared = Folder()
    shared.run("plugins")
    zoo_seen = subprocess.Popen([str(PROGRAM), "plugins", "--plugin-path", str(ZOO)], cwd=shared.path, env=shared.environment,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for species, pitch in (("low", 300), ("high", 2500)):
        for i in range(5):
            write_wav(shared.path / "sounds" / f"{species}{i}.wav", 1.0, pitch=pitch + 20 * i)


def tearDownModule():
    zoo_seen.kill()
    zoo_seen.communicate()
    shared.__exit__()


def new_folder():
    folder = Folder()
    folder.environment["BIOPHONY_CACHE"] = shared.environment["BIOPHONY_CACHE"]
    return folder


class BadPipelines(unittest.TestCase):
    def setUp(self):
        self.folder = new_folder()

    def tearDown(self):
        self.folder.__exit__()

    def refused(self, content, status, *words, command="check", more=()):
        self.folder.write("p.json", content)
        for verb in {command, "run"}:
            result = self.folder.run(verb, "p.json", *more, *(["--out", "run"] if verb == "run" else []))
            self.assertEqual(result.returncode, status, result.stderr)
            for word in words:
                self.assertIn(word, result.stderr)
            self.assertNotIn("terminate", result.stderr)
        self.assertFalse((self.folder.path / "run").exists(), "a run directory was begun")
        self.assertFalse((self.folder.path / "store").exists(), "a store was begun")
        return result

    def test_no_file(self):
        result = self.folder.run("check", "none.json")
        self.assertEqual(result.returncode, 2)
        self.assertIn("none.json", result.stderr)

    def test_not_json(self):
        self.refused('{"biophony": 1,', 2, "p.json:1:", "not JSON")

    def test_unknown_plugin(self):
        pipeline = tiny_pipeline()
        pipeline["nodes"]["base"]["use"] = "encoder:beat"
        self.refused(pipeline, 3, "no encoder 'beat'; did you mean 'beats'", "/nodes/base/use")

    def test_unknown_merger(self):
        pipeline = tiny_pipeline()
        pipeline["nodes"]["merged"]["with"]["stages"][0]["use"] = "merger:avrage"
        self.refused(pipeline, 3, "no merger 'avrage'; did you mean 'average'")

    def test_misspelt_parameter(self):
        pipeline = tiny_pipeline()
        pipeline["nodes"]["joint"]["with"]["epohcs"] = 3
        self.refused(pipeline, 2, "epohcs", "did you mean 'epochs'")

    def test_misspelt_plugin_parameter(self):
        pipeline = tiny_pipeline()
        pipeline["nodes"]["base"]["with"] = {"encoder_layer": 3}
        self.refused(pipeline, 2, "encoder_layer", "encoder_layers")

    def test_misspelt_stage_parameter(self):
        pipeline = tiny_pipeline()
        pipeline["nodes"]["one"]["with"]["stages"][0]["with"] = {"lambda": 1}
        self.refused(pipeline, 2, "unknown parameter 'lambda'")

    def test_duplicate_node(self):
        self.refused('{"biophony": 1, "nodes": {"a": {"use": "encoder:beats"}, "a": {"use": "encoder:beats"}}}', 2, "stands twice", "p.json:1:")

    def test_cycle(self):
        pipeline = tiny_pipeline()
        pipeline["nodes"]["merged"]["in"]["base"] = "merged2"
        pipeline["nodes"]["merged2"] = {"use": "compose", "in": {"base": "merged", "vectors": ["vector[*]"]}, "with": {"stages": [{"use": "merger:average"}]}}
        self.refused(pipeline, 2, "wait for each other", "'merged' uses 'merged2' uses 'merged'")

    def test_all_problems_at_once(self):
        pipeline = tiny_pipeline()
        pipeline["nodes"]["joint"]["with"]["epohcs"] = 3
        pipeline["nodes"]["table"]["in"]["score"] = ["score"]
        pipeline["nodes"]["model"]["in"]["encoder"] = "clips[frog]"
        result = self.refused(pipeline, 2, "epohcs", "'score'", "clips[frog]")
        self.assertGreaterEqual(len(result.stderr.splitlines()), 4)

    def test_missing_checkpoint(self):
        pipeline = tiny_pipeline()
        pipeline["nodes"]["base"]["with"] = {"checkpoint": "weights/none.safetensors"}
        self.refused(pipeline, 2, "none.safetensors", "not found")

    def test_unknown_option_and_command(self):
        for arguments, words in ((["rnu"], "'run'"), (["check", "p.json", "--sett", "x=1"], "--set"), (["check"], "missing")):
            result = self.folder.run(*arguments)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn(words, result.stderr)

    def test_override_of_nothing(self):
        self.folder.write("p.json", tiny_pipeline())
        result = self.folder.run("check", "p.json", "--set", "params.sead=1")
        self.assertEqual(result.returncode, 2)
        self.assertIn("seed", result.stderr)


class BadData(unittest.TestCase):
    """A table of recordings, some of which can't be used."""

    def setUp(self):
        self.folder = new_folder()
        rows = []
        shutil.copytree(shared.path / "sounds", self.folder.path / "sounds")
        for species in ("low", "high"):
            for i in range(5):
                rows.append({"path": f"sounds/{species}{i}.wav", "label": species, "start_s": 0, "end_s": 1, "recording_id": f"{species}{i}"})
        self.rows = rows
        pipeline = tiny_pipeline()
        pipeline["axes"] = {}
        pipeline["nodes"] = {
            "base": pipeline["nodes"]["base"],
            "clips": {"use": "dataset:table", "with": {"file": "clips.csv"}},
            "model": {"use": "head", "in": {"encoder": "base", "data": "clips"}},
            "score": {"use": "evaluate", "in": {"model": "model", "data": "clips"}},
        }
        self.pipeline = pipeline
        self.folder.write("p.json", pipeline)

    def tearDown(self):
        self.folder.__exit__()

    def table(self, rows=None, columns=None):
        rows = self.rows if rows is None else rows
        with open(self.folder.path / "clips.csv", "w", newline="") as out:
            writer = csv.DictWriter(out, columns or list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def run_it(self):
        return self.folder.run("run", "p.json", "--out", "run", "--threads", "1")

    def assert_nothing_half_written(self):
        store = self.folder.path / "store"
        self.assertEqual(list((store / "tmp").iterdir()) if store.exists() else [], [])
        for result in (store / "objects").glob("*/*") if store.exists() else []:
            record = json.loads((result / "result.json").read_text())
            for file in record["files"]:
                self.assertEqual((result / file["name"]).stat().st_size, file["bytes"])

    def test_all_good(self):
        self.table()
        result = self.run_it()
        self.assertEqual(result.returncode, 0, result.stderr)

    def skipped(self, name, *words):
        self.table()
        result = self.run_it()
        self.assertEqual(result.returncode, 6, result.stderr)
        with open(self.folder.path / "run" / "skipped.csv", newline="") as rows:
            skipped = list(csv.DictReader(rows))
        self.assertEqual(len(skipped), 1)
        self.assertIn(name, skipped[0]["file"])
        for word in words:
            self.assertIn(word, skipped[0]["reason"])
            self.assertIn(word, result.stderr)
        self.assert_nothing_half_written()

    def test_missing_file(self):
        (self.folder.path / "sounds/low0.wav").unlink()
        self.skipped("low0.wav", "missing")

    def test_text_named_wav(self):
        (self.folder.path / "sounds/low0.wav").write_text("these are not the sounds you are looking for\n" * 20)
        self.skipped("low0.wav", "text")

    def test_truncated_flac(self):
        # Made by cutting a whole one; the program that builds the tests' fixtures writes it.
        flac = BUILD / "tests" / "fixtures" / "tone.flac"
        data = flac.read_bytes()
        (self.folder.path / "sounds/low0.flac").write_bytes(data[: len(data) // 2])
        self.rows[0]["path"] = "sounds/low0.flac"
        self.skipped("low0.flac", "truncated")

    def test_nothing_usable(self):
        shutil.rmtree(self.folder.path / "sounds")
        self.table()
        result = self.run_it()
        self.assertEqual(result.returncode, 1)
        self.assertIn("node clips", result.stderr)
        self.assertIn("missing", result.stderr)
        self.assert_nothing_half_written()

    def test_absent_label_column(self):
        self.pipeline["nodes"]["clips"]["with"]["columns"] = {"label": "specis"}
        self.folder.write("p.json", self.pipeline)
        for row in self.rows:
            row["species"] = row.pop("label")
        self.table()
        result = self.run_it()
        self.assertIn(result.returncode, (1, 2))
        self.assertIn("specis", result.stderr)
        self.assertIn("species", result.stderr)
        self.assert_nothing_half_written()

    def test_missing_table(self):
        result = self.run_it()
        self.assertEqual(result.returncode, 2)
        self.assertIn("clips.csv", result.stderr)

    def test_a_leaking_split(self):
        for i, row in enumerate(self.rows):
            row["split"] = ("train", "test")[i % 2]
            row["recording_id"] = "one tape"
        self.table()
        result = self.run_it()
        self.assertEqual(result.returncode, 1)
        self.assertIn("one tape", result.stderr)
        self.assertIn("splits", result.stderr)

    def test_equal_files_stay_in_one_split(self):
        for i in range(5):
            shutil.copy(self.folder.path / f"sounds/low{i}.wav", self.folder.path / f"sounds/copy{i}.wav")
            self.rows.append(dict(self.rows[i], path=f"sounds/copy{i}.wav", recording_id=f"copy{i}"))
        self.table()
        result = self.run_it()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("byte for byte", result.stderr)
        data = json.loads((self.folder.path / "run/nodes/clips/dataset.json").read_text())
        splits = {}
        for clip in data["clips"]:
            splits.setdefault(data["recordings"][clip["recording"]]["content"], set()).add(clip["split"])
        self.assertTrue(all(len(found) == 1 for found in splits.values()))

    def test_equal_files_in_different_splits_are_refused(self):
        for i, row in enumerate(self.rows):
            row["split"] = ("train", "test", "valid", "train", "train")[i % 5]
        shutil.copy(self.folder.path / "sounds/low0.wav", self.folder.path / "sounds/low1.wav")
        self.table()
        result = self.run_it()
        self.assertEqual(result.returncode, 1)
        self.assertIn("byte for byte", result.stderr)

    def test_a_recording_in_two_groups_and_two_splits(self):
        for i, row in enumerate(self.rows):
            row["group"] = "a"
        self.rows += [dict(row, group="b", label="other " + row["label"]) for row in self.rows]
        for i, row in enumerate(self.rows):
            row["split"] = ("train", "test", "valid", "train", "train")[(i + (row["group"] == "b")) % 5]
        self.table()
        nodes = self.pipeline["nodes"]
        nodes["clips"]["with"]["where"] = {"group": "a"}
        nodes["clips2"] = {"use": "dataset:table", "with": {"file": "clips.csv", "where": {"group": "b"}}}
        nodes["model"]["in"]["data"] = nodes["score"]["in"]["data"] = ["clips", "clips2"]
        self.folder.write("p.json", self.pipeline)
        result = self.run_it()
        self.assertEqual(result.returncode, 1, result.stderr)
        for word in ("clips2", "split", "low"):
            self.assertIn(word, result.stderr)

    def test_a_clip_with_two_labels(self):
        self.rows.append(dict(self.rows[0], label="high"))
        self.rows.append(dict(self.rows[1]))
        self.table()
        result = self.run_it()
        self.assertEqual(result.returncode, 6, result.stderr)
        self.assertIn("several labels (high, low)", result.stderr)
        self.assertIn("count once", result.stderr)

    def test_fractions_that_are_none(self):
        self.table()
        for fractions in ([0.9, 0.9, 0.9], [0, 0, 1]):
            result = self.folder.run("check", "p.json", "--set", f"clips.split.fractions={fractions}")
            self.assertEqual(result.returncode, 2)
            self.assertIn("sum to 1", result.stderr)

    def test_a_folder_of_the_users_is_left_alone(self):
        self.table()
        mine = self.folder.write("run/nodes/mine.txt", "precious")
        result = self.run_it()
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("not empty", result.stderr)
        self.assertEqual([path.name for path in (self.folder.path / "run").rglob("*") if path.is_file()], [mine.name])

    def test_a_damaged_report_is_not_shown(self):
        self.table()
        self.assertEqual(self.run_it().returncode, 0)
        metrics = next((self.folder.path / "store/objects").glob("*/*/metrics.json"))
        os.chmod(metrics, 0o644)
        text = metrics.read_text()
        metrics.write_text(text.replace('"clips"', '"clisp"'))
        result = self.run_it()
        self.assertEqual(result.returncode, 1)
        self.assertIn("was changed since it was made", result.stderr)
        result = self.folder.run("run", "p.json", "--out", "run", "--threads", "1", "--no-cache")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(metrics.read_text(), text)

    def test_full_disk(self):
        """A file-size limit stops writes part-way, as a full disk does."""
        self.table()
        limited = subprocess.run(
            ["bash", "-c", 'ulimit -f 40; trap "" XFSZ; exec "$@"', "-", str(PROGRAM), "run", "p.json", "--out", "run", "--threads", "1"],
            cwd=self.folder.path, env=self.folder.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        self.assertEqual(limited.returncode, 1, limited.stderr)
        self.assertIn("can't", limited.stderr)
        self.assert_nothing_half_written()
        result = self.run_it()
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_changed_result_is_noticed(self):
        self.table()
        self.assertEqual(self.run_it().returncode, 0)
        encoder = next((self.folder.path / "store/objects").glob("*/*/encoder.safetensors"))
        record = json.loads((encoder.parent / "result.json").read_text())
        os.chmod(encoder, 0o644)
        data = bytearray(encoder.read_bytes())
        data[-5] ^= 1
        encoder.write_bytes(data)
        result = self.folder.run("run", "p.json", "--out", "run2", "--threads", "1", "--set", "model.strength=0.5", "--set", "score.repeat=3")
        self.assertEqual(result.returncode, 1, record["node"])
        self.assertIn("was changed since it was made", result.stderr)


class BadPlugins(unittest.TestCase):
    """The zoo of broken libraries, as the program shows it."""

    @classmethod
    def setUpClass(cls):
        cls.output, cls.errors = zoo_seen.communicate(timeout=120)

    def setUp(self):
        self.folder = new_folder()

    def tearDown(self):
        self.folder.__exit__()

    def test_the_zoo_is_refused_with_reasons_and_the_rest_works(self):
        self.assertEqual(zoo_seen.returncode, 0, self.errors)
        self.assertIn("merger:average", self.output)
        refused = [line for line in self.output.splitlines() if line.startswith("refused")]
        self.assertGreaterEqual(len(refused), 8, self.output)
        self.assertTrue(any("SIGABRT" in line for line in refused), self.output)
        self.assertTrue(any("didn't end within" in line for line in refused), self.output)
        for line in refused:
            self.assertRegex(line, r"refused \S+: .+: .+")

    def test_a_crash_ends_the_run_and_names_plugin_and_node(self):
        self.folder.write("p.json", {
            "biophony": 1,
            "nodes": {
                "base": {"use": "encoder:beats", "with": TINY},
                "clips": {"use": "dataset:zoo-crashes"},
                "model": {"use": "head", "in": {"encoder": "base", "data": "clips"}},
            },
        })
        first = self.folder.run("run", "p.json", "--out", "run", "--plugin-path", ZOO, "--to", "base", timeout=120)
        self.assertEqual(first.returncode, 0, first.stderr)
        result = self.folder.run("run", "p.json", "--out", "run", "--plugin-path", ZOO, timeout=120)
        self.assertEqual(result.returncode, 5, result.stderr)
        for word in ("dataset:zoo-crashes", "clips", "crashed"):
            self.assertIn(word, result.stderr)
        # What was finished before is intact.
        self.assertEqual(len(list((self.folder.path / "store/objects").glob("*/*/encoder.safetensors"))), 1)

    def test_inspect_says_why(self):
        for library in sorted(ZOO.glob("*.so")):
            result = self.folder.run("inspect", library)
            self.assertIn(result.returncode, (0, 3), f"{library}: {result.stderr}")
            told = self.folder.run("inspect", library, "--format", "json")
            self.assertEqual(told.returncode, result.returncode)
            self.assertEqual(json.loads(told.stdout)["state"] == "ok", result.returncode == 0)

    def test_programs_read_what_there_is(self):
        item = json.loads(self.folder.run("inspect", "dataset:table", "--format", "json").stdout)
        self.assertEqual((item["name"], item["interface"]), ("dataset:table", "biophony.dataset/0"))
        self.assertIn("file", item["parameters"]["properties"])
        node = json.loads(self.folder.run("inspect", "fine-tune", "--format", "json").stdout)
        self.assertEqual([port["name"] for port in node["inputs"]], ["encoder", "data"])
        listed = json.loads(self.folder.run("plugins", "--format", "json").stdout)
        names = [item["name"] for library in listed["libraries"] for item in library["items"]]
        self.assertIn("merger:ties.global", names)
        wrong = self.folder.run("inspect", "fine-tune", "--format", "jsn")
        self.assertEqual(wrong.returncode, 2)
        self.assertIn("did you mean 'json'", wrong.stderr)


class Stopped(unittest.TestCase):
    def test_ctrl_c_ends_cleanly_and_the_next_run_goes_on(self):
        with new_folder() as folder:
            pipeline = tiny_pipeline()
            del pipeline["nodes"]["table"]["in"]["joint"]  # there it has to be trained as the experts are
            pipeline["nodes"]["joint"]["with"]["epochs"] = 2000
            folder.write("p.json", pipeline)
            process = subprocess.Popen(
                [str(PROGRAM), "run", "p.json", "--out", "run", "--threads", "1"], cwd=folder.path, env=folder.environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            log = folder.path / "run" / "log.jsonl"
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not (log.exists() and '"joint"' in log.read_text()):
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
            self.assertEqual(process.returncode, 4, errors)
            self.assertIn("cancelled", errors)
            manifest = json.loads((folder.path / "run" / "manifest.json").read_text())
            self.assertEqual(manifest["state"], "cancelled")
            self.assertEqual(list((folder.path / "store" / "tmp").iterdir()), [])
            pipeline["nodes"]["joint"]["with"]["epochs"] = 1
            folder.write("p.json", pipeline)
            again = folder.run("run", "p.json", "--out", "run", "--threads", "1")
            self.assertEqual(again.returncode, 0, again.stderr)
            states = {node["id"]: node["state"] for node in json.loads((folder.path / "run" / "manifest.json").read_text())["nodes"]}
            self.assertEqual(states["expert[frog]"], "cached")


if __name__ == "__main__":
    unittest.main()
