"""What is told before anything is trained: with check, and once the data sets were looked at; as text and as records."""

import json
import unittest

from support import SOURCE, TINY, Folder, tiny_pipeline

SMALL = SOURCE / "examples" / "models" / "beats-small.safetensors"


def changed(change):
    pipeline = tiny_pipeline()
    change(pipeline["nodes"])
    return pipeline


def another_base(nodes):
    nodes["other"] = {"use": "encoder:beats", "seed": 9, "with": TINY}
    nodes["merged"]["in"]["base"] = "other"


def another_taxon(nodes):
    nodes["alone"] = {"use": "evaluate", "in": {"model": "expert[frog]", "data": ["clips[cricket]"]}}


class Descriptions(unittest.TestCase):
    def setUp(self):
        self.folder = Folder()

    def tearDown(self):
        self.folder.__exit__()

    def told(self, change, *arguments, status=2):
        self.folder.write("p.json", changed(change))
        result = self.folder.run(*arguments)
        self.assertEqual(result.returncode, status, result.stdout + result.stderr)
        return result

    def records(self, *arguments, status):
        result = self.folder.run(*arguments, "--format", "json")
        self.assertEqual(result.returncode, status, result.stdout + result.stderr)
        self.folder.write("report.json", json.loads(result.stdout))
        checked = self.folder.run("schema", "check", "--check", "report.json")
        self.assertEqual(checked.returncode, 0, checked.stderr)
        return json.loads(result.stdout)

    def test_vectors_of_another_base_are_found_by_check(self):
        result = self.told(another_base, "check", "p.json")
        self.assertIn("/nodes/merged/in/vectors: 'vector[frog]' was taken from 'base' (and 1 more likewise), but is added to 'other'", result.stderr)
        self.assertIn("biophony: 1 problem\n", result.stderr)
        text = (self.folder.path / "p.json").read_text()
        line = 1 + text[: text.index('"vectors"', text.index('"merged": {'))].count("\n")
        self.assertTrue(result.stderr.startswith(f"p.json:{line}:"), result.stderr)
        report = self.records("check", "p.json", status=2)
        self.assertFalse(report["ok"])
        [problem] = report["problems"]
        self.assertEqual((problem["file"], problem["line"], problem["pointer"]), ("p.json", line, "/nodes/merged/in/vectors"))
        run = self.folder.run("run", "p.json", "--out", "run")
        self.assertNotEqual(run.returncode, 0)
        self.assertFalse((self.folder.path / "run").exists())

    def test_a_checkpoint_of_another_encoder_is_found_by_check(self):
        def change(nodes):
            nodes["base"] = {"use": "encoder:hubert", "with": {"checkpoint": str(SMALL)}}

        result = self.told(change, "check", "p.json")
        self.assertIn("/nodes/base/with/checkpoint: ", result.stderr)
        self.assertIn("holds encoder:beats, expected encoder:hubert", result.stderr)

    def test_labels_are_held_against_each_other_before_anything_is_trained(self):
        self.told(another_taxon, "check", "p.json", status=0)
        for command in (["plan", "p.json"], ["run", "p.json", "--out", "run"]):
            result = self.told(another_taxon, *command, status=1)
            self.assertIn("/nodes/alone/in/data: no clip of the test split has a label that the model knows: 'expert[frog]' knows ", result.stderr)
            report = self.records(*command, status=1)
            self.assertEqual([problem["code"] for problem in report["problems"]], ["run failed"])
        states = {node["id"]: node["state"] for node in json.loads((self.folder.path / "run" / "manifest.json").read_text())["nodes"]}
        self.assertEqual({node for node, state in states.items() if state in ("made", "cached")}, {"clips[frog]", "clips[cricket]"})

    def test_one_label_is_too_few(self):
        def change(nodes):
            nodes["clips[taxon]"]["with"]["species"] = 1

        result = self.told(change, "run", "p.json", "--out", "run", status=1)
        self.assertIn("'expert[frog]': found 1 labels with train clips, expected at least 2", result.stderr)

    def test_good_pipelines_are_good_as_records(self):
        self.folder.write("p.json", tiny_pipeline())
        report = self.records("check", "p.json", status=0)
        self.assertTrue(report["ok"])
        self.assertEqual((report["problems"], report["notes"]), ([], []))
        self.assertGreater(report["nodes"], 20)

    def test_a_file_that_is_no_json_is_a_record_too(self):
        self.folder.write("p.json", '{"biophony": 1,')
        report = self.records("check", "p.json", status=2)
        self.assertEqual(report["problems"][0]["line"], 1)
        report = self.records("check", "none.json", status=2)
        self.assertEqual(report["problems"][0]["file"], "none.json")
        result = self.folder.run("check", "p.json", "--format", "xml")
        self.assertEqual(result.returncode, 2)
        self.assertIn("--format: found 'xml', expected text or json", result.stderr)

    def test_records_tell_apart_what_was_found_and_expected(self):
        pipeline = tiny_pipeline()
        nodes = pipeline["nodes"]
        nodes["base"]["sed"] = 1
        nodes["expert[taxon]"]["with"] |= {"recipe": "smal", "epochs": "many", "epcohs": 2}
        nodes["expert[taxon]"]["in"]["encoder"] = "clips[taxon]"
        nodes["more"] = {"use": "finetune", "in": {}}
        self.folder.write("p.json", pipeline)
        problems = {(p["pointer"], p.get("found")): p for p in self.records("check", "p.json", status=2)["problems"]}
        for pointer, found, expected, nearest in [
            ("/nodes/base/sed", "'sed'", "one of use, in, with, seed, notes", "seed"),
            ("/nodes/expert[taxon]/with/epcohs", "'epcohs'", None, "epochs"),
            ("/nodes/expert[taxon]/with/epochs", 'the string "many"', "a whole number", None),
            ("/nodes/expert[taxon]/with/recipe", 'the string "smal"', 'one of "small"', "small"),
            ("/nodes/expert[taxon]/in/encoder", "dataset", "encoder or checkpoint", None),
            ("/nodes/more/use", "'finetune'", None, "fine-tune"),
        ]:
            with self.subTest(pointer=pointer):
                problem = problems[pointer, found]
                self.assertEqual(problem.get("nearest"), nearest, problem)
                if expected is not None:
                    self.assertIn(expected, problem["expected"])
                for part in {found, nearest or found}:
                    self.assertIn(part, problem["message"])

    def test_a_missing_plugin_is_a_record_with_its_status(self):
        pipeline = tiny_pipeline()
        pipeline["nodes"]["base"]["use"] = "encoder:beat"
        self.folder.write("p.json", pipeline)
        report = self.records("check", "p.json", status=3)
        self.assertEqual({problem["code"] for problem in report["problems"]}, {"plugin"})
        self.assertEqual({problem["nearest"] for problem in report["problems"]}, {"beats"})


if __name__ == "__main__":
    unittest.main()
