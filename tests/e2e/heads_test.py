"""All kinds of heads on one small composition, through the program."""

import csv
import json
import math
import struct
import unittest

from support import TINY, Folder, tiny_pipeline, write_wav
from walk_test import tensors

KINDS = ["ridge", "lda", "prototype", "concatenate.raw", "concatenate.public", "refit.public", "gated", "probe", "probe.nihal2026", "knn"]
NEEDS = {"ridge": ("sums", 2), "lda": ("sums", 2), "prototype": ("class means", 2), "concatenate.raw": ("own heads", 1),
         "concatenate.public": ("own heads", 1), "refit.public": ("own heads", 2), "gated": ("sums, own heads", 2),
         "probe": ("clips", None), "probe.nihal2026": ("clips", None), "knn": ("clips", None)}


def heads_pipeline():
    pipeline = tiny_pipeline()
    pipeline["axes"] = {"taxon": ["frog", "cricket"], "sum": ["ridge", "lda", "prototype", "probe", "probe.nihal2026", "knn"],
                        "of-experts": ["concatenate.raw", "gated"], "ensemble": ["concatenate.raw", "concatenate.public"]}
    nodes = pipeline["nodes"]
    for name in ("pretrained", "one", "model", "score", "table", "joint"):
        del nodes[name]
    nodes["places"] = {"use": "dataset:synthetic", "with": {"group": "any", "seed": 9, "species": 2, "recordings": 4, "clips": 1, "clip_seconds": 1.0}}
    data, experts = ["clips[*]"], ["expert[*]"]
    nodes["sums[sum]"] = {"use": "head", "in": {"encoder": "merged", "data": data}, "with": {"kind": "{sum}"}}
    nodes["own[of-experts]"] = {"use": "head", "in": {"encoder": "merged", "data": data, "experts": experts}, "with": {"kind": "{of-experts}"}}
    nodes["refit"] = {"use": "head", "in": {"encoder": "merged", "data": data, "public": "places"}, "with": {"kind": "refit.public", "pooling": "bands"}}
    nodes["shared"] = {"use": "head", "in": {"encoder": "merged", "data": data, "experts": experts, "public": "places"},
                       "with": {"kind": "concatenate.public", "name": "concatenate.public, merged"}}
    nodes["ensemble"] = {"use": "head", "in": {"data": data, "experts": experts}, "with": {"kind": "concatenate.raw", "own_encoders": True}}
    nodes["ensemble.public"] = {"use": "head", "in": {"data": data, "experts": experts, "public": ["places"]},
                                "with": {"kind": "concatenate.public", "own_encoders": True}}
    nodes["gate"] = {"use": "head", "in": {"encoder": "base", "data": data, "experts": experts}, "with": {"kind": "gated", "own_encoders": True}}
    del pipeline["axes"]["ensemble"]
    for name in ("sums[sum]", "own[of-experts]", "refit", "shared", "ensemble", "ensemble.public", "gate"):
        nodes["score." + name] = {"use": "evaluate", "in": {"model": name, "data": data}, "with": {"repeat": 3}}
    nodes["alone[taxon]"] = {"use": "evaluate", "in": {"model": "expert[taxon]", "data": "clips[taxon]"}}
    return pipeline


class Heads(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Folder()
        cls.folder.write("p.json", heads_pipeline())
        cls.run_ = cls.folder.run("run", "p.json", "--out", "run", "--threads", "1")

    @classmethod
    def tearDownClass(cls):
        cls.folder.__exit__()

    def nodes(self):
        return self.folder.path / "run" / "nodes"

    def heads(self):
        return [folder for folder in sorted(self.nodes().iterdir()) if (folder / "head.json").exists()]

    def test_all_kinds_run_and_say_what_they_need(self):
        self.assertEqual(self.run_.returncode, 0, self.run_.stderr)
        kinds = set()
        for folder in self.heads():
            head = json.loads((folder / "head.json").read_text())
            kinds.add(head["kind"])
            self.assertEqual((head["needs"], head["rounds"]), NEEDS[head["kind"]])
            self.assertEqual(head["pools_clips"], head["rounds"] is None)
            predictions = json.loads((self.nodes() / ("score." + folder.name) / "predictions.json").read_text())
            self.assertEqual((predictions["sends"], predictions["pools_clips"], predictions["repeat"]),
                             (head["needs"], head["pools_clips"], "3"))
            self.assertEqual(predictions["head"], head["name"])
            sums = sorted(path.name for path in folder.glob("sums-*"))
            self.assertEqual(sums, ["sums-0.safetensors", "sums-1.safetensors"] if "sums" in head["needs"] or head["kind"] == "prototype" else [])
        self.assertEqual(kinds, set(KINDS))
        self.assertEqual(json.loads((self.nodes() / "ensemble" / "head.json").read_text())["name"], "concatenate.raw, own encoders")

    def test_ranks_and_predictions_follow_from_the_scores(self):
        for folder in self.heads():
            score = self.nodes() / ("score." + folder.name)
            metadata, found = tensors(score / "scores.safetensors")
            labels = json.loads(metadata["biophony.labels"])
            self.assertEqual(labels, json.loads((folder / "head.json").read_text())["labels"])
            info, data = found["scores"]
            count, columns = info["shape"]
            values = struct.unpack(f"<{count * columns}f", data)
            self.assertTrue(all(math.isfinite(value) for value in values), folder.name)
            self.assertGreater(len(set(values)), count)
            predictions = json.loads((score / "predictions.json").read_text())
            classes = {group["name"]: group["classes"] for group in predictions["groups"]}
            with open(score / "predictions.csv") as file:
                rows = list(csv.DictReader(file))
            self.assertEqual((len(rows), columns), (count, len(labels)))
            for i, row in enumerate(rows):
                mine = values[i * columns : (i + 1) * columns]
                self.assertEqual(mine[labels.index(row["predicted"])], max(mine))

                def rank(among):
                    # sklearn's top_k_accuracy_score: argsort(kind="mergesort"), reversed.
                    order = sorted(among, key=lambda c: mine[c])[::-1]
                    return order.index(labels.index(row["truth"])) + 1

                self.assertEqual((int(row["rank"]), int(row["rank_within"])), (rank(range(columns)), rank(classes[row["group"]])))

    def test_raw_concatenation_is_the_experts_heads(self):
        _, whole = tensors(self.nodes() / "own[concatenate.raw]" / "head.safetensors")
        for i, taxon in enumerate(("frog", "cricket")):
            _, own = tensors(self.nodes() / f"expert[{taxon}]" / "head.safetensors")
            self.assertEqual(whole[f"parts.{i}.weight"][1], own["weight"][1])
            _, encoder = tensors(self.nodes() / f"expert[{taxon}]" / "encoder.safetensors")
            _, handed = tensors(self.nodes() / "ensemble" / f"encoder-{i + 1}.safetensors")
            self.assertEqual({name: data for name, (_, data) in encoder.items()}, {name: data for name, (_, data) in handed.items()})

    def test_within_a_group_the_ensemble_is_the_specialists(self):
        # Each label has its own expert's score, whatever else is beside it.
        ensemble = json.loads((self.nodes() / "score.ensemble" / "metrics.json").read_text())
        gate = json.loads((self.nodes() / "score.gate" / "metrics.json").read_text())
        for taxon in ("frog", "cricket"):
            alone = json.loads((self.nodes() / f"alone[{taxon}]" / "metrics.json").read_text())
            self.assertEqual(ensemble["groups"][taxon]["within"], alone["groups"][taxon]["within"])
            self.assertEqual(gate["groups"][taxon]["within"], alone["groups"][taxon]["within"])

    def test_public_clips_of_the_valid_split_choose_the_strength(self):
        splits = [clip["split"] for clip in json.loads((self.nodes() / "places" / "dataset.json").read_text())["clips"]]
        held_out = splits.count("valid")
        self.assertTrue(0 < held_out < len(splits))
        for name in ("refit", "shared", "ensemble.public"):
            head = json.loads((self.nodes() / name / "head.json").read_text())
            self.assertEqual([of["name"] for of in head["contributors"]], ["frog", "cricket"])
            for of in head["contributors"]:
                self.assertEqual(of["public_windows"], len(splits) - held_out)
                self.assertGreater(of["valid_loss"], 0)
                self.assertLessEqual(of["largest_derivative"], 1e-6)

    def test_features_are_made_once_and_again_does_nothing(self):
        manifest = json.loads((self.folder.path / "run" / "manifest.json").read_text())
        ids = [node["id"] if "id" in node else node["node"] for node in manifest["nodes"]]
        self.assertEqual(len(ids), len(set(ids)))
        features = [node for node in ids if node.startswith("features:")]
        # merged: 2 + places; each expert: 2 + places; base: 2 for the gate.
        self.assertEqual(len(features), 3 + 2 * 3 + 2, features)
        again = self.folder.run("run", "p.json", "--out", "second", "--threads", "1")
        self.assertIn(": 3 made, ", again.stdout)
        self.assertEqual(self.folder.results("run"), self.folder.results("second"))


class BadHeads(unittest.TestCase):
    def refused(self, change, *texts, files=lambda folder: None):
        pipeline = heads_pipeline()
        nodes = pipeline["nodes"]
        for name in [name for name in nodes if name.startswith(("score", "sums", "own", "refit", "shared", "ensemble", "gate", "places", "alone"))]:
            del nodes[name]
        pipeline["axes"] = {"taxon": ["frog", "cricket"]}
        nodes["model"] = {"use": "head", "in": {"encoder": "merged", "data": ["clips[*]"], "experts": ["expert[*]"]}, "with": {"kind": "concatenate.raw"}}
        change(nodes)
        with Folder() as folder:
            folder.write("p.json", pipeline)
            files(folder.path)
            run = folder.run("run", "p.json", "--out", "run", "--threads", "1")
            self.assertEqual(run.returncode, 1, run.stdout + run.stderr)
            for text in texts:
                self.assertIn(text, run.stderr)

    def test_an_encoder_of_another_width(self):
        def change(nodes):
            nodes["wide"] = {"use": "encoder:beats", "with": dict(TINY, encoder_embed_dim=64)}
            nodes["model"]["in"]["encoder"] = "wide"

        self.refused(change, "the head of 'expert[frog]' takes ", " features, but 'wide' gives ", "expected an encoder like the expert's")

    def test_an_expert_that_heard_something_else(self):
        def change(nodes):
            nodes["model"]["in"]["experts"] = ["expert[frog]"]

        self.refused(change, "no expert knows the label '", "connect the experts that were trained on these data sets")

    def test_two_experts_of_one_group(self):
        def change(nodes):
            nodes["again"] = {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[frog]"}, "seed": 5, "with": {"epochs": 1, "batch": 4}}
            nodes["model"]["in"]["experts"] = ["expert[*]", "again"]
            nodes["model"]["with"]["kind"] = "gated"

        self.refused(change, "two experts, 'expert[frog]' and 'again', were trained on 'frog'")

    def test_public_clips_that_are_not(self):
        def change(nodes):
            nodes["model"] = {"use": "head", "in": {"encoder": "base", "data": ["clips[*]"], "public": "clips[frog]"}, "with": {"kind": "refit.public"}}

        self.refused(change, "is in the public data set 'clips[frog]' and in a data set of this head")

    def test_public_clips_of_the_same_recordings(self):
        # Cut calls of one recording are files of different content.
        def files(folder):
            rows = ["path,start_s,end_s,taxon_group,label,recording_id"]
            for r in range(6):
                for i, group in enumerate(("bird", "none")):
                    write_wav(folder / f"{group}{r}.wav", 1.0, 16000, 300 + 20 * r + 400 * i)
                    rows.append(f"{group}{r}.wav,0,1,{group},{group} {r % 2},recording {r}")
            (folder / "clips.csv").write_text("\n".join(rows) + "\n")

        def change(nodes):
            for name in list(nodes):
                if name != "base":
                    del nodes[name]
            for name, group in (("ours", "bird"), ("theirs", "none")):
                nodes[name] = {"use": "dataset:table", "with": {"file": "clips.csv", "where": {"taxon_group": group}}}
            nodes["model"] = {"use": "head", "in": {"encoder": "base", "data": "ours", "public": "theirs"}, "with": {"kind": "refit.public"}}

        self.refused(change, "is in the public data set 'theirs' and in a data set of this head", files=files)

    def test_experts_with_windows_of_other_lengths(self):
        def change(nodes):
            nodes["short"] = {"use": "encoder:beats", "with": dict(TINY, window_seconds=0.5)}
            training = nodes.pop("expert[taxon]")["with"]
            for name in ("vector[taxon]", "merged"):
                del nodes[name]
            nodes["frogs"] = {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[frog]"}, "with": training}
            nodes["crickets"] = {"use": "fine-tune", "in": {"encoder": "short", "data": "clips[cricket]"}, "with": training}
            nodes["model"] = {"use": "head", "in": {"data": ["clips[*]"], "experts": ["frogs", "crickets"]},
                              "with": {"kind": "concatenate.raw", "own_encoders": True}}
            nodes["score"] = {"use": "evaluate", "in": {"model": "model", "data": ["clips[*]"]}}

        self.refused(change, "'features:frogs:clips[frog]' and 'features:crickets:clips[frog]', which 'model' reads side by side, have 10 and 20 windows",
                     "expected encoders whose windows are of one length")


if __name__ == "__main__":
    unittest.main()
