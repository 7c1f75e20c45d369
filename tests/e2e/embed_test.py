"""The command embed: whole files, windows, tables, bad files, kills."""

import array
import csv
import hashlib
import json
import math
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import time
import unittest
import wave

from support import BUILD, PROGRAM, SOURCE, Folder

MODEL = SOURCE / "examples" / "models" / "beats-small.safetensors"
SOUNDS = BUILD / "tests" / "fixtures"


def load(path):
    """Name → (shape, values), and the metadata with its JSON read."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    for key in ("biophony.inputs", "biophony.skipped", "biophony.encoder", "biophony.window"):
        metadata[key] = json.loads(metadata[key])
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = array.array("f")
        values.frombytes(data[8 + length + begin : 8 + length + end])
        tensors[name] = (entry["shape"], values)
    return tensors, metadata


def sound(path, seconds, rate=16000, seed=1, begin=0.0):
    """A chirp under noise; one seed gives one sound, of which this is [begin, begin + seconds)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    pitch = draw.uniform(400, 3000)
    noise = [draw.uniform(-1000, 1000) for _ in range(4001)]
    first = int(begin * rate)
    values = [
        int(9000 * math.sin(2 * math.pi * pitch * i / rate) * math.sin(2 * math.pi * i / rate) ** 2 + noise[i * 7 % 4001])
        for i in range(first, first + int(seconds * rate))
    ]
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(struct.pack(f"<{len(values)}h", *values))


class Embed(unittest.TestCase):
    def setUp(self):
        self.folder = Folder()

    def tearDown(self):
        self.folder.__exit__()

    def embed(self, *arguments, out="out.safetensors", status=0):
        result = self.folder.run("embed", "--checkpoint", MODEL, "--out", out, "--threads", "2", *arguments)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertEqual([p.name for p in self.folder.path.rglob("*.tmp-*")], [])
        return result

    def close(self, a, b, tolerance=1e-5):
        self.assertEqual(len(a), len(b))
        self.assertLess(max(abs(x - y) for x, y in zip(a, b)), tolerance)

    def test_whole_files_in_order(self):
        for name, seconds, seed in (("b/2.wav", 3, 1), ("b/1.WAV", 2, 2), ("b/c/3.wav", 3, 3), ("a.wav", 2, 4)):
            sound(self.folder.path / name, seconds, seed=seed)
        result = self.embed("b", "a.wav", "--frames")
        self.assertRegex(result.stdout, r"(?m)^4 files, 10 s of sound, [0-9.]+ x real time, 0 skipped$")
        tensors, metadata = load(self.folder.path / "out.safetensors")
        self.assertEqual([i["path"] for i in metadata["biophony.inputs"]], ["b/1.WAV", "b/2.wav", "b/c/3.wav", "a.wav"])
        self.assertEqual([i["rows"] for i in metadata["biophony.inputs"]], [[[0, 2]], [[0, 3]], [[0, 3]], [[0, 2]]])
        self.assertEqual(metadata["biophony.encoder"]["item"], "encoder:beats")
        shape, frames = tensors["1.frames"]
        self.assertEqual(tensors["1.clip"][0], [192])
        self.close(tensors["1.clip"][1], [sum(frames[d::192]) / shape[0] for d in range(192)])
        # Alone, a file has the same numbers as beside others.
        self.embed("b/2.wav", "--batch", "1", "--encoder", "beats", out="one.safetensors")
        self.close(load(self.folder.path / "one.safetensors")[0]["0.clip"][1], tensors["1.clip"][1])

    def test_windows_are_what_the_cut_out_pieces_give(self):
        sound(self.folder.path / "long.wav", 7)
        for begin in (0, 2, 4):
            sound(self.folder.path / f"pieces/{begin}.wav", 3, begin=begin)
        self.embed("long.wav", "--window", "3", "--hop", "2", "--csv", "out.csv")
        self.embed("pieces", out="pieces.safetensors")
        tensors, metadata = load(self.folder.path / "out.safetensors")
        pieces, _ = load(self.folder.path / "pieces.safetensors")
        self.assertEqual(tensors["0.clip"][0], [3, 192])
        self.assertEqual(metadata["biophony.inputs"][0]["rows"], [[0, 3], [2, 5], [4, 7]])
        self.assertEqual(metadata["biophony.window"], {"seconds": 3, "hop_seconds": 2})
        for row in range(3):
            self.close(tensors["0.clip"][1][192 * row : 192 * (row + 1)], pieces[f"{row}.clip"][1])
        with open(self.folder.path / "out.csv", newline="") as table:
            rows = list(csv.reader(table))
        self.assertEqual(rows[0], ["path", "start_s", "end_s", *(f"e{d}" for d in range(192))])
        self.assertEqual([row[:3] for row in rows[1:]], [["long.wav", "0", "3"], ["long.wav", "2", "5"], ["long.wav", "4", "7"]])
        written = array.array("f", [float(x) for row in rows[1:] for x in row[3:]])
        self.assertEqual(written, tensors["0.clip"][1])  # every digit that counts

    def test_batches_and_what_is_in_them_change_nothing(self):
        for i, seconds in enumerate((5, 1.5, 4, 2.5)):
            sound(self.folder.path / f"{i}.wav", seconds, seed=i)
        files = [f"{i}.wav" for i in range(4)]
        self.embed(*files, "--window", "2", "--layers", "--batch", "1", out="1.safetensors")
        self.embed(*files, "--window", "2", "--layers", "--batch", "8", out="8.safetensors")
        one, _ = load(self.folder.path / "1.safetensors")
        eight, _ = load(self.folder.path / "8.safetensors")
        self.assertEqual(one.keys(), eight.keys())
        self.assertEqual(one["0.clip"][0], [3, 192])
        self.assertEqual(one["0.layers"][0][:2], [3, 5])
        for name in one:
            self.assertEqual(one[name][0], eight[name][0])
            self.close(one[name][1], eight[name][1], 1e-4 if "layers" in name else 1e-5)
        self.embed(*files, "--window", "2", "--precision", "bf16", out="half.safetensors")
        half, metadata = load(self.folder.path / "half.safetensors")
        self.assertEqual(metadata["biophony.precision"], "bf16")
        self.assertNotEqual(half["0.clip"][1], one["0.clip"][1])
        self.close(half["0.clip"][1], one["0.clip"][1], 0.1)

    def test_bad_files_are_left_out(self):
        folder = self.folder.path / "in"
        for name in ("a", "m", "z"):
            sound(folder / f"{name}.wav", 3, seed=ord(name))
        for name in ("tone.flac", "tone.ogg", "tone.mp3"):
            shutil.copy(SOUNDS / name, folder / name)
        data = (SOUNDS / "tone.flac").read_bytes()
        (folder / "cut.flac").write_bytes(data[: len(data) // 2])
        (folder / "empty.wav").write_bytes(b"")
        (folder / "text.wav").write_text("nothing to hear\n")
        (folder / "Ünï côdé, \"x\".wav").write_text("text")
        sound(folder / "short.wav", 0.01)
        for window in ([], ["--window", "1.5"]):
            result = self.embed("in", *window, "--csv", "out.csv", status=6)
            for words in ("cut.flac: truncated", "empty.wav: is empty", "text.wav: is a text file", "short.wav: lasts 0.010 s"):
                self.assertIn(words, result.stderr)
            self.assertRegex(result.stdout, r"(?m)^6 files, 15 s of sound, [0-9.]+ x real time, 5 skipped$")
            tensors, metadata = load(self.folder.path / "out.safetensors")
            names = {i["index"]: os.path.basename(i["path"]) for i in metadata["biophony.inputs"]}
            self.assertEqual(sorted(names.values()), ["a.wav", "m.wav", "tone.flac", "tone.mp3", "tone.ogg", "z.wav"])
            self.assertEqual(sorted(tensors), sorted(f"{i}.clip" for i in names))
            self.assertEqual(len(metadata["biophony.skipped"]), 5)
            self.assertIn("truncated", next(s["reason"] for s in metadata["biophony.skipped"] if "cut" in s["path"]))
        result = self.embed("in/text.wav", "in/cut.flac", out="none.safetensors", status=1)
        self.assertIn("none of the 2 files could be embedded", result.stderr)
        self.assertFalse((self.folder.path / "none.safetensors").exists())

    def test_what_is_asked_for_must_make_sense(self):
        sound(self.folder.path / "a.wav", 1)
        (self.folder.path / "nothing").mkdir()
        (self.folder.path / "other.safetensors").write_bytes(struct.pack("<Q", 8) + b"{}      ")
        shutil.copy(self.folder.path / "a.wav", self.folder.path / "not-weights.wav")
        for arguments, status, words in (
            (["none.wav"], 2, "none.wav: there is no such file"),
            (["nothing"], 2, "holds no sound files"),
            ([], 2, "missing"),
            (["a.wav", "--window", "0"], 2, "--window: found '0'"),
            (["a.wav", "--window", "3 s"], 2, "--window: found '3 s'"),
            (["a.wav", "--window", "nan"], 2, "--window: found 'nan'"),
            (["a.wav", "--window", "0.05"], 2, "needs at least 0.1"),
            (["a.wav", "--window", "2", "--hop", "0"], 2, "--hop: found '0'"),
            (["a.wav", "--hop", "1"], 2, "--hop"),
            (["a.wav", "--window", "100000"], 2, "of memory"),
            (["a.wav", "--predictions"], 2, "no classifier"),
            (["a.wav", "--precision", "bf61"], 2, "did you mean 'bf16'"),
            (["a.wav", "--batch", "0"], 2, "--batch: found 0"),
            (["a.wav", "--threads", "x"], 2, "threads"),
            (["a.wav", "--frmaes"], 2, "did you mean '--frames'"),
            (["a.wav", "--encoder", "beast"], 3, "did you mean 'beats'"),
            (["a.wav", "--encoder", "dataset:table"], 2, "is no encoder"),
            (["a.wav", "--encoder", "mel-statistics"], 1, "holds encoder:beats"),
            (["a.wav", "--out", "twice.safetensors"], 2, "--out"),
        ):
            with self.subTest(arguments):
                self.assertIn(words, self.embed(*arguments, status=status).stderr)
        for out, status, words in (
            ("out.npz", 2, ".safetensors or .csv"),
            ("nothing", 2, "--out"),
            ("/proc/none/out.safetensors", 1, "/proc/none"),
        ):
            with self.subTest(out):
                self.assertIn(words, self.embed("a.wav", out=out, status=status).stderr)
        self.assertIn("clip embeddings alone", self.embed("a.wav", "--frames", out="out.csv", status=2).stderr)
        for checkpoint, status, words in (
            ("none.safetensors", 2, "not found"),
            ("nothing", 2, "is no file"),
            ("other.safetensors", 2, "name it with --encoder"),
            ("not-weights.wav", 2, "name it with --encoder"),
        ):
            with self.subTest(checkpoint):
                result = self.folder.run("embed", "a.wav", "--checkpoint", checkpoint, "--out", "out.safetensors")
                self.assertEqual(result.returncode, status, result.stderr)
                self.assertIn(words, result.stderr)
                self.assertNotIn("no valid safetensors", result.stderr)
        result = self.folder.run("embed", "a.wav", "--out", "out.safetensors")
        self.assertEqual(result.returncode, 2)
        self.assertIn("--checkpoint", result.stderr)
        self.assertFalse((self.folder.path / "out.safetensors").exists())

    def test_outputs_are_none_of_the_inputs_nor_each_other(self):
        path = self.folder.path
        sound(path / "in/a.wav", 1)
        shutil.copy(MODEL, path / "m.safetensors")
        (path / "m.model_config.json").write_text("{}")
        before = {file: hashlib.sha256(file.read_bytes()).digest() for file in path.rglob("*") if file.is_file()}
        for arguments, words in (
            (["--out", "m.safetensors"], "--out: 'm.safetensors' is the checkpoint"),
            (["--out", "new/../m.safetensors"], "is the checkpoint"),
            (["--out", "x.safetensors", "--csv", "./x.safetensors"], "--csv: './x.safetensors' is what --out names"),
            (["--out", "x.safetensors", "--csv", "in/a.wav"], "--csv: 'in/a.wav' is an input"),
            (["--out", "x.safetensors", "--csv", "m.model_config.json"], "is the configuration"),
        ):
            with self.subTest(arguments):
                result = self.folder.run("embed", "--checkpoint", "m.safetensors", "in", *arguments)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertIn(words, result.stderr)
        self.assertEqual({file: hashlib.sha256(file.read_bytes()).digest() for file in path.rglob("*") if file.is_file()}, before)

    def test_rows_are_what_samples_say(self):
        sound(self.folder.path / "a.wav", 3)
        self.embed("a.wav", "--window", "0.4", "--hop", "0.4", "--frames")
        rows = load(self.folder.path / "out.safetensors")[1]["biophony.inputs"][0]["rows"]
        self.assertEqual(rows, [[6400 * r / 16000, min(6400 * (r + 1) / 16000, 3)] for r in range(8)])

    def test_the_table_appears_with_the_tensors_or_not_at_all(self):
        sound(self.folder.path / "a.wav", 3)
        arguments = ["embed", "--checkpoint", str(MODEL), "a.wav", "--frames", "--out", "out.safetensors", "--csv", "out.csv"]
        self.assertEqual(self.folder.run(*arguments).returncode, 0)
        whole = self.folder.path / "out.safetensors"
        (length,) = struct.unpack("<Q", whole.read_bytes()[:8])
        data = whole.stat().st_size - 8 - length
        whole.unlink()
        (self.folder.path / "out.csv").unlink()
        # As on a full disk: there is room for the rows and the table, not for the tensors with their header.
        result = subprocess.run(
            [str(PROGRAM), *arguments], cwd=self.folder.path, env=self.folder.environment, capture_output=True, text=True, restore_signals=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (data + 100, data + 100)))
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("out.safetensors", result.stderr)
        self.assertEqual(sorted(p.name for p in self.folder.path.glob("out*")), [])

    def test_an_encoder_without_weights_needs_no_checkpoint(self):
        sound(self.folder.path / "a.wav", 1)
        result = self.folder.run("embed", "a.wav", "--encoder", "mel-statistics", "--out", "out.csv")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(len((self.folder.path / "out.csv").read_text().splitlines()), 2)

    def test_too_long_for_one_row(self):
        with wave.open(str(self.folder.path / "hours.wav"), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(1)
            out.setframerate(1000)
            out.writeframes(bytes(1000 * 3600 * 10))
        sound(self.folder.path / "a.wav", 1)
        result = self.embed("hours.wav", "a.wav", status=6)
        self.assertRegex(result.stderr, r"hours.wav: 36000 s at once would take the encoder about [0-9.]+ TB .*--window SECONDS")

    def test_stopped(self):
        """Ctrl-C ends with status 4, and neither it nor a kill leaves anything."""
        sound(self.folder.path / "a.wav", 60)
        before = sorted(self.folder.path.rglob("*"))
        for number, status in ((signal.SIGINT, 4), (signal.SIGKILL, -9)):
            process = subprocess.Popen(
                [str(PROGRAM), "embed", "--checkpoint", str(MODEL), *["a.wav"] * 40, "--window", "1", "--hop", "0.1", "--out", "new/out.safetensors",
                 "--csv", "out.csv"], cwd=self.folder.path, env=self.folder.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True)
            time.sleep(4)
            process.send_signal(number)
            _, told = process.communicate(timeout=60)
            self.assertEqual(process.returncode, status, told)
            made = set(self.folder.path.rglob("*")) - set(before)
            self.assertEqual({str(p.relative_to(self.folder.path)).split("/")[0] for p in made} - {"cache", "new"}, set())
            self.assertEqual(list((self.folder.path / "new").iterdir()), [])


if __name__ == "__main__":
    unittest.main()
