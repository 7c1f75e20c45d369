"""Three folds through the program: pooled rows, controls, differences, and groups told apart by their background."""

import csv
import json
import unittest

from support import TINY, Folder, tiny_pipeline


def folds_pipeline():
    pipeline = tiny_pipeline()
    pipeline["axes"] = {"taxon": ["frog", "cricket"], "fold": [0, 1, 2]}
    training = {"recipe": "small", "epochs": 1, "batch": 4}
    pipeline["nodes"] = {
        "base": {"use": "encoder:beats", "with": TINY},
        "other-base": {"use": "encoder:beats", "with": TINY, "seed": 9},
        "clips[taxon,fold]": {
            "use": "dataset:synthetic",
            "with": {"group": "{taxon}", "group_name": "{taxon}", "species": 2, "recordings": 4, "clips": 1, "clip_seconds": 1.0,
                     "split": {"by": "folds", "folds": 3, "fold": "{fold}", "seed": 5}, "minimum_recordings": 3, "band_limit_hz": 7000},
        },
        "background[taxon,fold]": {"use": "background", "in": {"data": "clips[taxon,fold]"}, "with": {"seconds": 0.1}},
        "expert[taxon,fold]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[taxon,fold]"}, "with": training},
        "joint[fold]": {"use": "fine-tune", "in": {"encoder": "base", "data": ["clips[*,fold]"]}, "with": training},
        "vector[taxon,fold]": {"use": "task-vector", "in": {"base": "base", "model": "expert[taxon,fold]"}},
        "merged[fold]": {"use": "compose", "in": {"base": "base", "vectors": ["vector[*,fold]"]}, "with": {"stages": [{"use": "merger:average"}]}},
        "model[fold]": {"use": "head", "in": {"encoder": "merged[fold]", "data": ["clips[*,fold]"]}},
        "score[fold]": {"use": "evaluate", "in": {"model": "model[fold]", "data": ["clips[*,fold]"]}, "with": {"row": "average"}},
        "table": {
            "use": "table",
            "in": {"scores": ["score[*]"], "joint": ["joint[*]"], "base": "base", "experts": ["expert[*,*]"], "controls": ["other-base"]},
            "with": {"compare": [{"a": "base · ridge", "b": "other-base · ridge"},
                                 {"a": "specialists · own", "b": "base · ridge", "figure": "within"}]},
        },
        "group[fold]": {"use": "head", "in": {"encoder": "base", "data": ["background[*,fold]"]}},
        "group-score[fold]": {"use": "evaluate", "in": {"model": "group[fold]", "data": ["background[*,fold]"]}, "with": {"row": "groups by background"}},
        "background-table": {"use": "table", "in": {"scores": ["group-score[*]"]}},
    }
    return pipeline


class Folds(unittest.TestCase):
    def test_three_folds(self):
        with Folder() as folder:
            folder.write("p.json", folds_pipeline())
            plan = folder.run("plan", "p.json", "--threads", "1")
            self.assertEqual(plan.returncode, 0, plan.stderr)
            self.assertIn("table:other-base.ridge[2].score", plan.stdout)
            first = folder.run("run", "p.json", "--out", "run", "--threads", "1")
            self.assertEqual(first.returncode, 0, first.stderr)
            nodes = folder.path / "run" / "nodes"
            table = json.loads((nodes / "table" / "table.json").read_text())
            self.assertEqual((table["clips"], table["recordings"], table["folds"]), (16, 16, 3))
            rows = {(row["model"], row["head"]): row for row in table["rows"]}
            self.assertLessEqual({("joint", "own"), ("joint", "ridge"), ("specialists", "own"), ("average", "ridge"), ("base", "ridge"),
                                  ("other-base", "ridge"), ("mel-statistics", "ridge")}, set(rows))
            # Every clip once, in every row.
            self.assertEqual({row["clips"] for row in table["rows"]}, {16})
            self.assertEqual(table["groups"], ["cricket", "frog"])
            own, base = rows[("specialists", "own")], rows[("base", "ridge")]
            within = [[row["groups"][g]["within_accuracy"] for g in table["groups"]] for row in (own, base)]
            self.assertAlmostEqual(own["gain_within"]["mean"], sum(a - b for a, b in zip(*within)) / 2)
            with open(nodes / "table" / "species.csv") as file:
                species = [line for line in csv.DictReader(file) if line["row"] == "base" and line["head"] == "ridge"]
            self.assertEqual([line["group"] for line in species], ["cricket"] * 2 + ["frog"] * 2)
            self.assertEqual([line["clips"] for line in species], ["4"] * 4)
            mean = sum(float(line["recall_union"]) for line in species) / 4
            self.assertAlmostEqual(mean, base["union_accuracy"], places=4)
            with open(nodes / "table" / "confusion.csv") as file:
                confusion = [line for line in csv.DictReader(file) if line["row"] == "base" and line["head"] == "ridge"]
            self.assertEqual(sum(int(line["clips"]) for line in confusion), 16)
            right = sum(int(line["clips"]) for line in confusion if line["truth"] == line["predicted"])
            self.assertAlmostEqual(right / 16, base["union_accuracy"])
            with open(nodes / "score[0]" / "confusion.csv") as file:
                self.assertEqual(next(file), "truth,predicted,clips\n")
            self.assertEqual(base["top_5"], 1)  # there are four classes
            with open(nodes / "table" / "compare.csv") as file:
                lines = list(csv.DictReader(file))
            self.assertEqual([line["group"] for line in lines], ["all", "cricket", "frog"] * 2)
            points = 100 * (base["union_accuracy"] - rows[("other-base", "ridge")]["union_accuracy"])
            self.assertAlmostEqual(float(lines[0]["difference"]), points, delta=0.006)
            self.assertAlmostEqual(float(lines[3]["difference"]), 100 * own["gain_within"]["mean"], delta=0.006)
            self.assertFalse((nodes / "background-table" / "compare.csv").exists())
            background = json.loads((nodes / "background-table" / "table.json").read_text())
            self.assertEqual(background["clips"], 32)
            self.assertEqual(background["groups"], ["cricket", "frog"])
            again = folder.run("run", "p.json", "--out", "again", "--threads", "1")
            self.assertEqual(again.returncode, 0, again.stderr)
            self.assertIn(": 12 made, ", again.stdout)  # data sets and backgrounds look at their files each time
            self.assertEqual(folder.results("run"), folder.results("again"))
            # One fold alone takes what the three have made.
            one = folder.run("plan", "p.json", "--threads", "1", "--set", "axes.fold=[1]")
            states = {line.split()[1]: line.split()[0] for line in one.stdout.splitlines() if len(line.split()) > 2}
            self.assertEqual(states["table:base.ridge[1].score"], "cached")
            self.assertEqual(states["table"], "run")
            # A comparison that names no row: the run says which one is near.
            wrong = folder.run("run", "p.json", "--out", "wrong", "--threads", "1", "--set",
                               'table.compare=[{"a": "base · rigde", "b": "average · ridge"}]')
            self.assertNotEqual(wrong.returncode, 0)
            self.assertIn("did you mean 'base · ridge'?", wrong.stderr)


if __name__ == "__main__":
    unittest.main()
