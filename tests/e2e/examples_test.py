"""The shipped base and the shipped pipelines: the base is what its card says, every pipeline passes the checker, and the
real ones run on a folder with a clips.csv as it lies."""

import csv
import json
import pathlib
import struct
import unittest

from support import SOURCE, TINY, Folder, write_wav

PIPELINES = SOURCE / "examples" / "pipelines"
BASE = SOURCE / "examples" / "models" / "beats-small.safetensors"
GROUPS = {"amphibian": ["Hyla a", "Rana b"], "bird": ["Parus a", "Turdus b"], "insect": ["Gryllus a", "Tettigonia b"]}


def clips_csv(folder, recordings=5):
    """A folder of the layout that the real pipelines read: two labels a group with five recordings, one with two, and the
    general sounds that the base learns from."""
    rows, count = [], 0
    for group, labels in GROUPS.items():
        for label in [*labels, "Rara avis"]:
            for r in range(recordings if label != "Rara avis" else 2):
                count += 1
                path = f"{group}/{label.replace(' ', '_')}-{r}.wav"
                write_wav(folder / path, 1.0, 16000, 400 + 150 * (sum(map(ord, group + label)) % 20) + 0.37 * count)
                rows.append([path, 0, 1.0, "somewhere", group, label, "", f"{group}{label}{r}", "CC0"])
    for label in ("rain", "clock_tick"):
        for r in range(3):
            count += 1
            path = f"general/{label}-{r}.wav"
            write_wav(folder / path, 1.0, 16000, 200 + 7 * count)
            rows.append([path, 0, 1.0, "esc10_env", "non_animal", label, "", f"{label}{r}", "CC BY"])
    # The sets that the pretraining pipeline names, so that its "where" finds them.
    for dataset in ("fsdd", "bengalese_finch_bird0"):
        count += 1
        write_wav(folder / f"{dataset}.wav", 1.0, 16000, 300 + 9 * count)
        rows.append([f"{dataset}.wav", 0, 1.0, dataset, "speech", dataset, "", dataset, "CC BY"])
    with open(folder / "clips.csv", "w", newline="") as out:
        lines = csv.writer(out)
        lines.writerow(["path", "start_s", "end_s", "dataset", "taxon_group", "label", "split", "recording_id", "licence"])
        lines.writerows(rows)


def header_of(file):
    with open(file, "rb") as source:
        (size,) = struct.unpack("<Q", source.read(8))
        return json.loads(source.read(size))


class Base(unittest.TestCase):
    def test_the_base_is_what_its_card_says(self):
        self.assertLessEqual(BASE.stat().st_size, 12_000_000)
        metadata = header_of(BASE)["__metadata__"]
        config = json.loads(metadata["biophony.config"])
        for pipeline in ("quickstart.json", "real/table.json", "real/base.json", "pretrain-base.json"):
            ours = json.loads((PIPELINES / pipeline).read_text())["params"]["encoder"]
            self.assertEqual({key: config[key] for key in ours}, ours, f"{pipeline} describes another encoder than the base")
        # What it has heard: invented species, and the sets that the card names.
        card = (BASE.parent / "README.md").read_text()
        heard = json.loads(metadata["biophony.pretraining"])
        for data in heard["data"]:
            self.assertIn(f"`{data['group']}`", card)
        pipeline = json.loads((PIPELINES / "pretrain-base.json").read_text())
        made_by = pipeline["nodes"]["base"]
        self.assertEqual(heard["seed"], pipeline["params"]["seed"])
        self.assertEqual([data["group"] for data in heard["data"]], made_by["in"]["data"])
        self.assert_contains(heard["settings"], made_by["with"])
        for name, data in zip(made_by["in"]["data"], heard["data"]):
            made = pipeline["nodes"][name]["with"]
            if "species" in made:
                self.assertEqual(data["train_clips"], made["species"] * made["recordings"] * made["clips"])

    def assert_contains(self, whole, part):
        for key, value in part.items():
            if isinstance(value, dict):
                self.assert_contains(whole[key], value)
            else:
                self.assertEqual(whole[key], value, key)


class Examples(unittest.TestCase):
    def test_every_pipeline_passes_the_checker(self):
        with Folder() as folder:
            clips_csv(folder.path)
            for pipeline in [PIPELINES / "quickstart.json", PIPELINES / "pretrain-base.json", *sorted((PIPELINES / "real").glob("*.json")), *sorted((PIPELINES / "task-arithmetic").glob("*.json")),
                             PIPELINES / "contributors" / "table.json"]:
                settings = [] if pipeline.name == "quickstart.json" or pipeline.parent.name in ("task-arithmetic", "contributors") else ["--set", f"params.recordings={folder.path / 'clips.csv'}"]
                check = folder.run("check", str(pipeline), *settings)
                self.assertEqual(check.returncode, 0, f"{pipeline}: {check.stderr}")

    def test_the_base_can_be_made_again(self):
        """The pipeline with fewer and smaller steps."""
        with Folder() as folder:
            clips_csv(folder.path)
            pipeline = json.loads((PIPELINES / "pretrain-base.json").read_text())
            pipeline["params"]["encoder"] = dict(TINY, window_seconds=0.5)
            pipeline["params"]["recordings"] = str(folder.path / "clips.csv")
            for name, node in pipeline["nodes"].items():
                if node["use"] == "pretrain":
                    node["with"].update(steps=2, batch=4)
                if node["use"] == "dataset:synthetic":
                    node["with"].update(species=4, clip_seconds=0.5)
            folder.write("p.json", pipeline)
            run = folder.run("run", "p.json", "--out", "run", "--threads", "1")
            self.assertEqual(run.returncode, 0, run.stderr)
            made = header_of(folder.path / "run" / "nodes" / "base" / "encoder.safetensors")
            heard = json.loads(made["__metadata__"]["biophony.pretraining"])
            self.assertEqual([(data["group"], data["train_clips"]) for data in heard["data"]], [("near", 16), ("far", 16), ("general", 8)])

    def test_negation_addition_and_analogy(self):
        """The pipelines of task arithmetic, with a small encoder, short clips and few values."""
        rows = {
            "negation": {("base", "ridge, bands"), ("without birds", "ridge, bands"), ("random step", "ridge, bands"),
                         ("without birds", "ridge, fitted again")},
            "addition": {(row, "ridge, bands") for row in ("one coefficient", "two coefficients", "base", "joint", "mel-statistics")}
            | {("joint", "own"), ("specialists", "own"), ("base", "concatenate.raw"), ("ensemble", "gated, bands")},
            "analogy": {(row, "ridge, bands") for row in ("by analogy", "near frogs alone", "base", "mel-statistics")},
        }
        with Folder() as folder:
            for name, expected in rows.items():
                pipeline = json.loads((PIPELINES / "task-arithmetic" / f"{name}.json").read_text())
                pipeline["params"].pop("checkpoint")
                for key, node in pipeline["nodes"].items():
                    if node["use"] == "encoder:beats":
                        node["with"] = dict(TINY, window_seconds=0.5)
                    elif node["use"] == "dataset:synthetic":
                        node["with"].update(species=3, recordings=4, clips=1, clip_seconds=0.5)
                    elif node["use"] == "fine-tune":
                        node["with"].update(epochs=1)
                    elif node["use"] == "sweep":
                        for field, values in node.items():
                            if field.startswith("with") and "grid" in values:
                                values["grid"] = {coefficient: [0.5, 1] for coefficient in values["grid"]}
                folder.write("p.json", pipeline)
                run = folder.run("run", "p.json", "--out", name, "--threads", "2")
                self.assertEqual(run.returncode, 0, f"{name}: {run.stderr}")
                table = json.loads((folder.path / name / "nodes" / "table" / "table.json").read_text())
                self.assertEqual({(row["model"], row["head"]) for row in table["rows"]}, expected, name)
                self.assertIn("accuracy on the valid clips", run.stdout)

    def test_contributors_and_their_pipeline(self):
        """With a small encoder and short clips: the same for all contributors, by the names that outputs have."""
        with Folder() as folder:
            pipeline = json.loads((PIPELINES / "contributors" / "table.json").read_text())
            pipeline["params"] = {"seed": 7, "epochs": 1}
            pipeline["nodes"]["base"]["with"] = dict(TINY, window_seconds=0.5)
            pipeline["nodes"]["clips[place]"]["with"].update(species=2, recordings=5, clips=1, clip_seconds=0.5)
            folder.write("p.json", pipeline)
            folder.write("contributor.json", json.loads((PIPELINES / "contributors" / "contributor.json").read_text()))
            run = folder.run("run", "p.json", "--out", "run", "--threads", "2")
            self.assertEqual(run.returncode, 0, run.stderr)
            out = folder.path / "run"
            table = json.loads((out / "outputs" / "table" / "table.json").read_text())
            rows = {(row["model"], row["head"]) for row in table["rows"]}
            self.assertIn(("iso-c", "concatenate.raw"), rows)
            self.assertNotIn(("average", "concatenate.raw"), rows)
            self.assertIn(("joint", "own"), rows)
            manifest = json.loads((out / "manifest.json").read_text())
            self.assertEqual(manifest["outputs"]["contributions"], ["contributor.vector[pond]", "contributor.vector[meadow]"])
            self.assertEqual(sorted(path.name for path in (out / "outputs" / "contributions").iterdir()),
                             ["contributor.vector[meadow]", "contributor.vector[pond]"])
            vector = "contributor.vector[pond]/task_vector.safetensors"
            self.assertEqual((out / "outputs" / "contributions" / vector).read_bytes(), (out / "nodes" / vector).read_bytes())
            # What was kept runs by itself, makes nothing again, and what it doesn't name any more is gone.
            kept = json.loads((out / "pipeline.effective.json").read_text())
            self.assertNotIn("pipelines", kept)
            del kept["outputs"]["merged"]
            folder.write("elsewhere.json", kept)
            again = folder.run("run", "elsewhere.json", "--out", "run", "--threads", "2")
            self.assertEqual(again.returncode, 0, again.stderr)
            manifest = json.loads((out / "manifest.json").read_text())
            self.assertEqual({node["state"] for node in manifest["nodes"] if node["use"] in ("fine-tune", "compose", "head")}, {"cached"})
            self.assertEqual(sorted(path.name for path in (out / "outputs").iterdir()), ["contributions", "table"])

    def test_real_recordings_as_they_lie(self):
        with Folder() as folder:
            clips_csv(folder.path)
            tiny = dict(TINY, window_seconds=1.0)
            params = {"base": tiny, "encoder": tiny}
            folder.write("params.json", params)
            kinds = ["concatenate.raw", "concatenate.public", "gated", "ridge"]
            run = folder.run("run", str(PIPELINES / "real" / "table.json"), "--out", "run", "--threads", "2",
                             "--params", "params.json", "--set", f"params.recordings={folder.path / 'clips.csv'}",
                             "--set", "axes.fold=[0]", "--set", "axes.seed=[1]", "--set", "expert.epochs=1", "--set", "joint.epochs=1",
                             "--set", 'axes.merge=["average","iso-c"]', "--set", f"axes.kind={json.dumps(kinds)}", "--set", "axes.lambda=[2]")
            self.assertEqual(run.returncode, 0, run.stderr)
            table = json.loads((folder.path / "run" / "nodes" / "table" / "table.json").read_text())
            rows = {(row["model"], row["head"]) for row in table["rows"]}
            everywhere = {(model, kind) for model in ("average", "iso-c", "joint", "base", "random step", "random-start") for kind in kinds}
            self.assertEqual(rows, everywhere | {("joint", "own"), ("specialists", "own"), ("mel-statistics", "ridge")}
                             | {("ensemble", kind) for kind in kinds if kind != "ridge"}
                             | {("task arithmetic, λ_mean 2", kind) for kind in ("ridge", "gated")})
            self.assertEqual(len(table["compare"]), 7)
            # One recording of five of each of six labels; the rare label is left out.
            self.assertEqual(table["clips"], 6)
            self.assertIn("random-start", run.stdout)
            self.assertIn("mel-statistics", run.stdout)


if __name__ == "__main__":
    unittest.main()
