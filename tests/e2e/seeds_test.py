"""Two folds, two seeds and two heads through the program: what is one row, what is made once, and what repeats say."""

import csv
import json
import unittest

from support import TINY, Folder


def seeds_pipeline():
    training = {"recipe": "small", "epochs": 1, "batch": 4}
    return {
        "biophony": 1,
        "params": {"seed": 3},
        "axes": {"taxon": ["frog", "cricket"], "fold": [0, 1], "seed": [1, 2], "kind": ["ridge", "gated"]},
        "nodes": {
            "base": {"use": "encoder:beats", "with": TINY},
            "clips[taxon,fold]": {
                "use": "dataset:synthetic",
                "with": {"group": "{taxon}", "group_name": "{taxon}", "species": 2, "recordings": 4, "clips": 1, "clip_seconds": 1.0,
                         "split": {"by": "folds", "folds": 3, "fold": "{fold}", "seed": 5}, "minimum_recordings": 3},
            },
            "expert[taxon,fold,seed]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[taxon,fold]"}, "with": training, "seed": "{seed}"},
            "joint[fold,seed]": {"use": "fine-tune", "in": {"encoder": "base", "data": ["clips[*,fold]"]}, "with": training, "seed": "{seed}"},
            "vector[taxon,fold,seed]": {"use": "task-vector", "in": {"base": "base", "model": "expert[taxon,fold,seed]"}},
            "merged[fold,seed]": {"use": "compose", "in": {"base": "base", "vectors": ["vector[*,fold,seed]"]}, "with": {"stages": [{"use": "merger:average"}]}},
            "model[fold,seed,kind]": {"use": "head", "in": {"encoder": "merged[fold,seed]", "data": ["clips[*,fold]"], "experts": ["expert[*,fold,seed]"]},
                                      "with": {"kind": "{kind}"}},
            "score[fold,seed,kind]": {"use": "evaluate", "in": {"model": "model[fold,seed,kind]", "data": ["clips[*,fold]"]},
                                      "with": {"row": "average", "repeat": "{seed}"}},
            "table": {
                "use": "table",
                "in": {"scores": ["score[*,*,*]"], "joint": ["joint[*,*]"], "base": "base", "experts": ["expert[*,*,*]"]},
                "with": {"compare": [{"a": "average · gated", "b": "average · ridge"}, {"a": "base · ridge", "b": "mel-statistics · ridge"}]},
            },
        },
    }


class Seeds(unittest.TestCase):
    def test_folds_seeds_and_heads(self):
        with Folder() as folder:
            folder.write("p.json", seeds_pipeline())
            run = folder.run("run", "p.json", "--out", "run", "--threads", "1")
            self.assertEqual(run.returncode, 0, run.stderr)
            nodes = folder.path / "run" / "nodes"
            table = json.loads((nodes / "table" / "table.json").read_text())
            rows = {(row["model"], row["head"]): row for row in table["rows"]}
            self.assertEqual(len(rows), len(table["rows"]))
            self.assertEqual((table["folds"], table["repeats"], len(table["groups"])), (2, 2, 2))
            # Which rows there are, and how many trainings are behind each: the base and mel statistics know of no seed
            # unless the experts' own heads are on them.
            repeats = {name: row["repeats"] for name, row in rows.items()}
            self.assertEqual(repeats, {
                ("joint", "own"): 2, ("specialists", "own"): 2,
                ("joint", "ridge"): 2, ("average", "ridge"): 2, ("random step", "ridge"): 2, ("base", "ridge"): 1, ("mel-statistics", "ridge"): 1,
                ("joint", "gated"): 2, ("average", "gated"): 2, ("random step", "gated"): 2, ("base", "gated"): 2, ("ensemble", "gated"): 2,
                ("base", "concatenate.raw"): 2,
            })
            # Every row has the clips of both folds, once.
            self.assertEqual({row["clips"] for row in table["rows"]}, {table["clips"]})
            scores = [path.name for path in nodes.iterdir() if path.name.endswith(".score")]
            self.assertEqual(sorted(name for name in scores if "base.ridge" in name), ["table:base.ridge[0].score", "table:base.ridge[1].score"])

            # Differences over seeds, and none where neither side has them.
            first, second = table["compare"]
            self.assertEqual(set(first["all"]["repeats"]), {"1", "2"})
            self.assertAlmostEqual(sum(first["all"]["repeats"].values()) / 2, first["all"]["mean"])
            self.assertNotIn("repeats", second["all"])
            with open(nodes / "table" / "compare.csv") as file:
                lines = list(csv.DictReader(file))
            self.assertTrue(all(line["repeats_low"] and line["repeats_high"] for line in lines[:3]))
            self.assertTrue(not any(line["repeats_low"] for line in lines[3:]))
            self.assertEqual(set(rows[("average", "ridge")]["gap_union"]["repeats"]), {"1", "2"})
            text = (nodes / "table" / "table.txt").read_text()
            self.assertIn("pooled over 2 folds", text)
            self.assertIn("means of up to 2 repeats, 1 of base · ridge, 1 of mel-statistics.", text)


if __name__ == "__main__":
    unittest.main()
