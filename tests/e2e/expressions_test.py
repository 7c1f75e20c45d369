"""Expressions and sweeps from end to end: what a sweep's curve says is what nodes of the same coefficients score, the
result is the chosen encoder, and test clips have no part in the choice."""

import csv
import json
import struct
import unittest

from support import Folder, tiny_pipeline, write_wav


def read_tensors(file):
    """Name → floats of the F32 tensors of a safetensors file."""
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    out = {}
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] == "F32":
            begin, end = tensor["data_offsets"]
            out[name] = struct.unpack(f"<{(end - begin) // 4}f", data[8 + size + begin : 8 + size + end])
    return out


def metadata_of(file):
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size])["__metadata__"]


def pipeline():
    nodes = tiny_pipeline()["nodes"]
    nodes = {name: nodes[name] for name in ("base", "clips[taxon]", "expert[taxon]", "vector[taxon]")}
    nodes["clips[taxon]"]["with"].update(recordings=8, species=3)
    data = {"base": "base", "targets": "clips[frog]", "controls": "clips[cricket]"}
    named = {"f": "vector[frog]", "c": "vector[cricket]"}
    nodes.update({
        "before": {"use": "head", "in": {"encoder": "base", "data": ["clips[*]"]}, "with": {"kind": "ridge"}},
        "forget": {"use": "sweep", "in": dict(data, vectors={"f": "vector[frog]"}, head="before"),
                   "with": {"expression": "-scale*f", "grid": {"scale": [1, 40]}, "goal": "forget", "floor": 0.5}},
        "add": {"use": "sweep", "in": {"base": "base", "vectors": named, "targets": ["clips[*]"]},
                "with": {"expression": "x*f + y*c", "grid": {"x": [0.5, 1], "y": [0, 1]}, "goal": "learn", "judge": "ridge"}},
        # The same two points by nodes of their own.
        "by-hand": {"use": "compose", "in": {"base": "base", "vectors": {"f": "vector[frog]"}}, "with": {"expression": "-40*f"}},
        "by-hand-head": {"use": "keep-head", "in": {"encoder": "by-hand", "head": "before"}},
        "by-hand-score": {"use": "evaluate", "in": {"model": "by-hand-head", "data": ["clips[*]"]}, "with": {"split": "valid"}},
        "both": {"use": "arithmetic", "in": {"vectors": named}, "with": {"expression": "0.5*f + c"}},
        "added": {"use": "compose", "in": {"base": "base", "vectors": {"v": "both"}}, "with": {"expression": "v"}},
        "added-head": {"use": "head", "in": {"encoder": "added", "data": ["clips[*]"]}, "with": {"kind": "ridge"}},
        "added-score": {"use": "evaluate", "in": {"model": "added-head", "data": ["clips[*]"]}, "with": {"split": "valid"}},
        # What follows a sweep: the head that was kept, and the table.
        "kept": {"use": "keep-head", "in": {"encoder": "forget", "head": "before"}},
        "score": {"use": "evaluate", "in": {"model": "kept", "data": ["clips[*]"]}, "with": {"row": "without frogs"}},
        "score-base": {"use": "evaluate", "in": {"model": "before", "data": ["clips[*]"]}, "with": {"row": "base"}},
        "table": {"use": "table", "in": {"scores": ["score", "score-base"]}},
        "shape": {"use": "geometry", "in": {"base": "base", "vectors": named}},
    })
    return {"biophony": 1, "params": {"seed": 3}, "axes": {"taxon": ["frog", "cricket"]}, "nodes": nodes}


class Expressions(unittest.TestCase):
    def test_sweeps_say_what_nodes_say(self):
        with Folder() as folder:
            folder.write("p.json", pipeline())
            run = folder.run("run", "p.json", "--out", "run", "--threads", "2")
            self.assertEqual(run.returncode, 0, run.stderr)
            nodes = folder.path / "run" / "nodes"
            groups = lambda node: json.loads((nodes / node / "metrics.json").read_text())["groups"]

            forget = json.loads((nodes / "forget" / "sweep.json").read_text())
            points = {point["coefficients"]["scale"]: point for point in forget["points"]}
            self.assertEqual(set(points), {0, 1, 40})
            by_hand = groups("by-hand-score")
            self.assertEqual(points[40]["targets"]["frog"], by_hand["frog"]["union"]["accuracy"])
            self.assertEqual(points[40]["controls"]["cricket"], by_hand["cricket"]["union"]["accuracy"])
            # A step of forty times what was learned can't leave all answers alone.
            self.assertNotEqual((points[40]["targets"], points[40]["controls"]), (points[0]["targets"], points[0]["controls"]))
            chosen = forget["chosen"]["scale"]
            allowed = [p for p in forget["points"] if p["allowed"]]
            self.assertEqual(points[chosen]["target"], min(p["target"] for p in allowed))
            for point in forget["points"]:
                kept = point["controls"]["cricket"] >= 0.5 * points[0]["controls"]["cricket"]
                self.assertEqual(point["allowed"], kept or point is points[0], point)

            add = json.loads((nodes / "add" / "sweep.json").read_text())
            (point,) = [p for p in add["points"] if p["coefficients"] == {"x": 0.5, "y": 1}]
            self.assertEqual(point["targets"], {name: entry["union"]["accuracy"] for name, entry in groups("added-score").items()})
            self.assertEqual(len(add["points"]), 5)

            # The result is base + Σ: the chosen encoder, with what it was made of.
            for node, factors in (("forget", {"frog": -chosen}), ("add", dict(frog=add["chosen"]["x"], cricket=add["chosen"]["y"]))):
                base, made = read_tensors(nodes / "base" / "encoder.safetensors"), read_tensors(nodes / node / "encoder.safetensors")
                vectors = {taxon: read_tensors(nodes / f"vector[{taxon}]" / "task_vector.safetensors") for taxon in factors}
                self.assertEqual(set(base), set(made))
                for name, values in base.items():
                    for k in range(0, len(values), 7):
                        expected = values[k] + sum(c * vectors[taxon][name][k] for taxon, c in factors.items())
                        self.assertAlmostEqual(made[name][k], expected, delta=1e-6 * max(1, abs(expected)))
                self.assertEqual(json.loads(metadata_of(nodes / node / "encoder.safetensors")["biophony.coefficients"]),
                                 {"forget": forget, "add": add}[node]["chosen"])

            both = read_tensors(nodes / "both" / "task_vector.safetensors")
            f, c = (read_tensors(nodes / f"vector[{taxon}]" / "task_vector.safetensors") for taxon in ("frog", "cricket"))
            for name, values in both.items():
                for k, value in enumerate(values):
                    self.assertEqual(value, struct.unpack("<f", struct.pack("<f", 0.5 * f[name][k] + c[name][k]))[0])

            # The texts are shown, and the curve is in the CSV.
            for text in ("base + -scale*f", "base + x*f + y*c", "task vectors of", "without frogs"):
                self.assertIn(text, run.stdout)
            with open(nodes / "forget" / "sweep.csv", newline="") as rows:
                self.assertEqual([row["scale"] for row in csv.DictReader(rows)], ["0", "1", "40"])
            table = json.loads((nodes / "table" / "table.json").read_text())
            self.assertEqual({row["model"] for row in table["rows"]}, {"without frogs", "base"})
            geometry = json.loads((nodes / "shape" / "geometry.json").read_text())
            self.assertEqual(geometry["vectors"], ["c", "f"])
            norm = sum(x * x for values in f.values() for x in values) ** 0.5
            self.assertAlmostEqual(geometry["whole"]["norms"][1], norm, places=9)

            # The same bytes again, made anew.
            again = folder.run("run", "p.json", "--out", "again", "--threads", "2", "--no-cache")
            self.assertEqual(again.returncode, 0, again.stderr)
            self.assertEqual(folder.results("run"), folder.results("again"))

    def test_test_clips_have_no_part(self):
        """With other recordings in the test split, and the same to learn from and to choose on, a sweep gives the same."""
        keep = ("base", "clips[taxon]", "expert[taxon]", "vector[taxon]", "before", "forget", "add")
        with Folder() as folder:
            small = pipeline()
            small["nodes"] = {name: small["nodes"][name] for name in keep}
            small["nodes"]["score"] = {"use": "evaluate", "in": {"model": "before", "data": ["clips[*]"]}}
            pitches = {"frog": (300, 500, 800), "cricket": (2000, 3000, 4500)}
            for name, shift in (("one", 1.0), ("other", 1.7)):
                for taxon, species in pitches.items():
                    rows = ["path,label,split"]
                    for split in ("train", "train", "train", "valid", "valid", "test", "test"):
                        for label, pitch in enumerate(species):
                            file = f"{len(rows)}.wav"
                            at = pitch * (1 + 0.02 * len(rows)) * (shift if split == "test" else 1)
                            write_wav(folder.path / name / taxon / file, pitch=at)
                            rows.append(f"{file},{taxon}{label},{split}")
                    folder.write(f"{name}/{taxon}/clips.csv", "\n".join(rows) + "\n")
                small["nodes"]["clips[taxon]"] = {
                    "use": "dataset:table", "with": {"file": f"{name}/{{taxon}}/clips.csv", "group_name": "{taxon}"}}
                folder.write(f"{name}.json", small)
                run = folder.run("run", f"{name}.json", "--out", f"run-{name}", "--threads", "2", "--no-cache")
                self.assertEqual(run.returncode, 0, run.stderr)
            one, other = folder.results("run-one"), folder.results("run-other")
            for node in ("forget", "add"):
                for file in ("sweep.json", "encoder.safetensors"):
                    self.assertEqual(one[f"{node}/{file}"], other[f"{node}/{file}"], (node, file))
            # The recordings did change.
            self.assertNotEqual(one["score/predictions.json"], other["score/predictions.json"])

    def test_a_sweep_without_valid_clips_says_so(self):
        with Folder() as folder:
            small = pipeline()
            keep = ("base", "clips[taxon]", "expert[taxon]", "vector[taxon]", "before", "forget")
            small["nodes"] = {name: small["nodes"][name] for name in keep}
            small["nodes"]["forget"]["with"]["grid"]["scale"] = [1]
            small["nodes"]["clips[taxon]"]["with"]["recordings"] = 2
            folder.write("p.json", small)
            run = folder.run("run", "p.json", "--out", "run", "--threads", "2")
            self.assertEqual(run.returncode, 1, run.stdout)
            self.assertIn("valid split", run.stderr)


if __name__ == "__main__":
    unittest.main()
