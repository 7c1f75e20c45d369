"""The pipelines for public data sets, each on a few invented sounds in the layout that docs/public-data.md says the set has."""

import csv
import importlib.util
import json
import shutil
import unittest

from support import SOURCE, TINY, Folder, write_wav

PUBLIC = SOURCE / "examples" / "pipelines" / "public"
SETTINGS = {"encoder": dict(TINY, window_seconds=0.5)}


def table(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as out:
        lines = csv.writer(out)
        lines.writerow(header)
        lines.writerows(rows)
    return path


def pitch(label):
    return 300 + 37 * (sum(map(ord, label)) % 60)


class Sounds:
    """Each file another one: equal bytes would count as one recording."""

    def __init__(self):
        self.count = 0

    def write(self, path, label, seconds=0.5, rate=16000):
        self.count += 1
        write_wav(path, seconds, rate, pitch(label) + 0.37 * self.count)


def anuraset(root, sounds):
    """metadata.csv and audio/SITE/FNAME_FROM_TO.wav, with 42 columns of 0 and 1. Some clips have two species or none, and one
    species is in the test split alone."""
    species = json.loads((PUBLIC / "anuraset.json").read_text())["params"]["species"]
    header = ["sample_name", "fname", "min_t", "max_t", "site", "date", "species_number", "subset", *species]
    rows = []
    for night, subset in enumerate(["train", "train", "test"]):
        for second, present in enumerate([{"BOAFAB"}, {"DENMIN"}, {"BOAFAB", "DENMIN"}, {"SCINAS"} if subset == "test" else set()]):
            fname = f"INCT4_2019101{night}_063000"
            name = f"{fname}_{second}_{second + 3}.wav"
            sounds.write(root / "audio" / "INCT4" / name, "".join(sorted(present)) or "none", rate=22050)
            rows.append([name, fname, second, second + 3, "INCT4", "2019-10-14 06:30:00", len(present), subset,
                         *(int(code in present) for code in species)])
    table(root / "metadata.csv", header, rows)
    return ["params.table=metadata.csv", 'params.where={"site":"INCT4"}', 'params.exclude=["SPHSUR"]'], {"clips": (7, {"BOAFAB", "DENMIN", "SCINAS"}, {"train": 4, "test": 3})}


def insectset32(root, sounds):
    """Two tables, and a folder per order and species."""
    for order, names in (("Orthoptera", ["Grylluscampestris", "Nemobiussylvestris"]), ("Cicadidae", ["Kikihiamuta", "Pycnasemiclara"])):
        rows = []
        for index, species in enumerate(names):
            for take, split in enumerate(["train", "validation", "test"]):
                name = f"{species}_Take{take}.M.wav"
                sounds.write(root / order / species / name, species, rate=44100)
                rows.append([name, species, index, split, f"Take{take}.M.wav"])
        table(root / f"{order}.csv", ["file_name", "species", "class_ID", "data_set", "original_file_name"], rows)
    return ["params.orthoptera=Orthoptera.csv", "params.cicadidae=Cicadidae.csv"], {
        "orthoptera": (6, {"Grylluscampestris", "Nemobiussylvestris"}, {"train": 2, "valid": 2, "test": 2}),
        "cicadidae": (6, {"Kikihiamuta", "Pycnasemiclara"}, {"train": 2, "valid": 2, "test": 2})}


def insectset66(root, sounds):
    """One table; files that were cut from one recording share unique_file."""
    rows = []
    for species in ("Yoyetta celis", "Cicada orni"):
        for number, split in enumerate(["train", "train", "validation", "test"]):
            name = f"{species.replace(' ', '')}_{max(number, 1)}_edit{number}.wav" if number < 2 else f"{species.replace(' ', '')}_{number}.wav"
            sounds.write(root / "InsectSet66_Train_Val_Test" / name, species, rate=44100)
            rows.append([name, species, split, f"{species}_1" if number < 2 else "", "https://example.org", "somebody"])
    table(root / "InsectSet66_Train_Val_Test_Annotation.csv", ["file_name", "species", "subset", "unique_file", "link", "contributor"], rows)
    return ["params.table=InsectSet66_Train_Val_Test_Annotation.csv"], {
        "clips": (8, {"Yoyetta celis", "Cicada orni"}, {"train": 4, "valid": 2, "test": 2})}


def birdset(root, sounds):
    """Unpacked shards and the metadata's rows; birdset_table.py makes the table. The names end in .ogg, the sounds are WAVs."""
    spec = importlib.util.spec_from_file_location("birdset_table", PUBLIC / "birdset_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    train, test = [], []
    for code in ("gcrfin", "whcspa"):
        for number in range(2):
            name = f"XC{len(train) + 1}.ogg"
            sounds.write(root / "HSN_train_shard_0001" / name, code, 2.0, 32000)
            train.append({"filepath": f"somewhere/{name}", "ebird_code": code, "start_time": None, "end_time": None, "low_freq": None,
                          "high_freq": None, "detected_events": [[0.1, 0.8], [1.0, 1.9]] if number else None,
                          "license": "//creativecommons.org/licenses/by-nc-sa/4.0/", "recordist": "somebody"})
    name = "HSN_001_20150708_061805.ogg"
    sounds.write(root / "HSN_test_shard_0001" / name, "gcrfin", 3.0, 32000)
    for start, code in ((0.0, "gcrfin"), (1.0, "whcspa"), (2.0, "gcrfin")):
        test.append({"filepath": name, "ebird_code": code, "start_time": start, "end_time": start + 0.7, "low_freq": 2000.0,
                     "high_freq": 4000.0, "license": "CC BY 4.0"})
    test.append({"filepath": "not-here.ogg", "ebird_code": "gcrfin", "start_time": 0.0, "end_time": 1.0})
    _, missing = module.write(root, "HSN", train, test)
    assert missing == 1, missing
    return ["params.table=HSN_clips.csv"], {"clips": (9, {"gcrfin", "whcspa"}, {"train": 6, "test": 3})}


def watkins(root, sounds):
    """A folder per species, files named after year, tape and cut; a table beside them is passed over."""
    for species in ("Beluga,_White_Whale", "Bowhead_Whale"):
        for tape in range(5):
            for cut in range(2):
                sounds.write(root / species / f"6{tape}0{len(species):02}00{'AB'[cut]}.wav", species, 0.3, 10000 if "Bow" in species else 81920)
    table(root / "annotations.csv", ["path", "species"], [])
    return ["params.folder=."], {"clips": (20, {"Beluga,_White_Whale", "Bowhead_Whale"}, {"train": 12, "valid": 4, "test": 4})}


def esc50(root, sounds):
    """meta/esc50.csv and audio/FOLD-CLIP-TAKE-TARGET.wav."""
    rows = []
    for target, category in enumerate(["dog", "rain", "wind"]):
        for source in range(5):
            for take in "AB":
                name = f"{source + 1}-{100 * target + source}-{take}-{target}.wav"
                sounds.write(root / "audio" / name, category, rate=44100)
                rows.append([name, source + 1, target, category, "True", 100 * target + source, take])
    table(root / "meta" / "esc50.csv", ["filename", "fold", "target", "category", "esc10", "src_file", "take"], rows)
    return ["params.table=meta/esc50.csv", 'params.exclude=["dog"]', 'params.where={"esc10":"True"}'], {
        "clips": (20, {"rain", "wind"}, {"train": 12, "valid": 4, "test": 4})}


SETS = {"anuraset": anuraset, "insectset32": insectset32, "insectset66": insectset66, "birdset": birdset, "watkins": watkins, "esc50": esc50}


class PublicData(unittest.TestCase):
    def setUp(self):
        self.folder = Folder()
        self.folder.write("settings.json", SETTINGS)

    def tearDown(self):
        self.folder.__exit__()

    def run_pipeline(self, name, settings, *more):
        arguments = ["--params", "settings.json", "--threads", "1"]
        for setting in settings:
            arguments += ["--set", setting]
        check = self.folder.run("check", PUBLIC / f"{name}.json", *arguments[:2], *arguments[4:])
        self.assertEqual(check.returncode, 0, check.stderr)
        run = self.folder.run("run", PUBLIC / f"{name}.json", "--out", "run", *arguments, *more)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        return run

    def clips(self, node):
        return json.loads((self.folder.path / "run" / "nodes" / node / "dataset.json").read_text())

    def check_clips(self, expected):
        for node, (count, labels, splits) in expected.items():
            clips = self.clips(node)["clips"]
            self.assertEqual(len(clips), count)
            self.assertEqual({clip["label"] for clip in clips}, labels)
            found = {split: sum(clip["split"] == split for clip in clips) for split in {clip["split"] for clip in clips}}
            self.assertEqual(found, splits)

    def test_each_set(self):
        for name, make in SETS.items():
            with self.subTest(name):
                shutil.rmtree(self.folder.path / "run", ignore_errors=True)
                folder = self.folder.path / name
                folder.mkdir()
                settings, expected = make(folder, Sounds())
                settings = [s if s.startswith(("params.exclude", "params.where")) else s.replace("=", f"={name}/", 1) for s in settings]
                run = self.run_pipeline(name, settings, "--set", "expert.epochs=1")
                self.check_clips(expected)
                for word in ("specialists", "specialist", "base"):
                    self.assertIn(f"\n  {word} ", run.stdout)
                self.assertTrue((self.folder.path / "run" / "nodes" / "vector" / "task_vector.safetensors").exists())

    def test_clips_of_a_tape_stay_together(self):
        watkins(self.folder.path / "watkins", Sounds())
        self.run_pipeline("watkins", ["params.folder=watkins"], "--set", "expert.epochs=0")
        data = self.clips("clips")
        splits = {}
        for clip in data["clips"]:
            splits.setdefault(data["recordings"][clip["recording"]]["unit"], set()).add(clip["split"])
        self.assertEqual(len(splits), 10)
        self.assertTrue(all(len(found) == 1 for found in splits.values()))

    def test_two_sets(self):
        anuraset(self.folder.path / "frogs", Sounds())
        insectset32(self.folder.path / "insects", Sounds())
        run = self.run_pipeline("two-sets", ["params.frogs=frogs/metadata.csv", "params.orthoptera=insects/Orthoptera.csv",
                                             "params.cicadidae=insects/Cicadidae.csv", "axes.lambda=[0.5]"],
                                "--set", "frog-expert.epochs=1", "--set", "insect-expert.epochs=1", "--set", "joint.epochs=1")
        for word in ("joint", "specialists", "average", "base", "amphibian", "orthoptera", "cicadidae"):
            self.assertIn(word, run.stdout)

    def test_another_layout_is_told(self):
        anuraset(self.folder.path, Sounds())
        text = (self.folder.path / "metadata.csv").read_text()
        (self.folder.path / "metadata.csv").write_text(text.replace("subset", "fold", 1))
        run = self.folder.run("run", PUBLIC / "anuraset.json", "--out", "run", "--params", "settings.json", "--set", "params.table=metadata.csv")
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("no column 'subset' for the split", run.stdout + run.stderr)


if __name__ == "__main__":
    unittest.main()
