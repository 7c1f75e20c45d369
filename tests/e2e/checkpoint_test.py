"""Checkpoints of others through the command line: converted, looked at, used, refused."""

import hashlib
import io
import json
import pickle
import shutil
import struct
import unittest
import zipfile

from support import BUILD, SOURCE, Folder, tiny_pipeline

GOLDEN = SOURCE / "tests" / "golden"


def header(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


class Runs:
    """What pickles the call of a function: the file attacks whoever unpickles it."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def torch_zip(value, **entries):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return out.getvalue()


class Checkpoints(unittest.TestCase):
    def setUp(self):
        self.folder = Folder()

    def tearDown(self):
        self.folder.__exit__()

    def convert(self, name, *more):
        result = self.folder.run("convert", name, "out.safetensors", *more)
        return result, self.folder.path / "out.safetensors"

    def test_convert(self):
        for name in ("beats_tiny_official_layout.pt", "beats_tiny_official_layout_legacy.pt"):
            source = GOLDEN / "checkpoints" / name
            result, out = self.convert(source)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("72 with 77049 values (72 F32)", result.stdout)
            self.assertIn("state dict is under 'model'", result.stdout)
            self.assertIn("labels     5", result.stdout)
            found, twin = header(out), header(GOLDEN / "beats" / "beats_tiny_weights.safetensors")
            metadata = found.pop("__metadata__")
            twin.pop("__metadata__")
            self.assertEqual(found, twin)
            tensors = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in found.values())
            self.assertEqual(out.read_bytes()[-tensors:], (GOLDEN / "beats" / "beats_tiny_weights.safetensors").read_bytes()[-tensors:])
            self.assertEqual(json.loads(metadata["cfg"])["encoder_layers"], 3)
            self.assertEqual(json.loads(metadata["labels"]), [f"/m/0000{i}" for i in range(5)])
            provenance = json.loads(metadata["biophony.source"])
            self.assertEqual(provenance["files"], {name: hashlib.sha256(source.read_bytes()).hexdigest()})
            table = "self_attn.relative_attention_bias.weight"
            self.assertEqual(json.loads(metadata["biophony.copies"]),
                             {f"encoder.layers.{i}.{table}": f"encoder.layers.0.{table}" for i in (1, 2)})
            first = out.read_bytes()
            self.convert(source)
            self.assertEqual(out.read_bytes(), first, "the same input gave other bytes")
            # What was written opens, and converts to the same tensors again.
            self.assertEqual(self.folder.run("inspect", "./out.safetensors").returncode, 0)

    def test_options(self):
        self.folder.write("config.json", {"width": 3})
        result, out = self.convert(GOLDEN / "checkpoints" / "ambiguous.pt")
        self.assertEqual(result.returncode, 1)
        self.assertIn("'biophony convert --key PATH' takes one of them: 'a' (7 tensors), 'b' (7 tensors)", result.stderr)
        self.assertFalse(out.exists())
        result, out = self.convert(GOLDEN / "checkpoints" / "ambiguous.pt", "--key", "b", "--config", "config.json")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(header(out)["__metadata__"]["cfg"], '{"width":3}')
        result, _ = self.convert(GOLDEN / "checkpoints" / "ambiguous.pt", "--key", "c")
        self.assertEqual(result.returncode, 1)
        self.folder.write("list.json", "[1]")
        result, _ = self.convert(GOLDEN / "checkpoints" / "ambiguous.pt", "--key", "b", "--config", "list.json")
        self.assertEqual(result.returncode, 1)
        self.assertIn("list.json", result.stderr)
        result = self.folder.run("convert", GOLDEN / "checkpoints" / "types.pt", "out.pt")
        self.assertEqual(result.returncode, 2)
        self.assertIn("ends in .safetensors", result.stderr)
        self.assertIn("--key", self.folder.run("convert", "--help").stdout)
        self.assertEqual(self.folder.run("convert", GOLDEN / "checkpoints" / "types.pt").returncode, 2)

    def test_the_output_is_none_of_the_inputs(self):
        path = self.folder.path
        shutil.copy(GOLDEN / "beats" / "beats_tiny_weights.safetensors", path / "w.safetensors")
        self.folder.write("index.json", {"weight_map": {"layer_norm.weight": "w.safetensors"}})
        (path / "link.safetensors").symlink_to("w.safetensors")
        (path / "config.safetensors").write_text("{}")
        before = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in path.iterdir() if file.is_file()}
        for arguments, words in (
            (("index.json", "w.safetensors"), "is a shard of the checkpoint"),
            (("w.safetensors", "./w.safetensors"), "is the checkpoint"),
            (("w.safetensors", "link.safetensors"), "is the checkpoint"),
            (("index.json", "config.safetensors", "--config", "config.safetensors"), "is the configuration"),
        ):
            result = self.folder.run("convert", *arguments)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn(words, result.stderr)
        self.assertEqual({file.name: hashlib.sha256(file.read_bytes()).digest() for file in path.iterdir() if file.is_file()}, before)
        result = self.folder.run("convert", "index.json", "whole.safetensors")
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_inspect(self):
        result = self.folder.run("inspect", GOLDEN / "checkpoints" / "types.pt")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("F32  [3, 3] view", result.stdout)
        self.assertIn("BF16 [3] bf16", result.stdout)
        # A word is a name first; a library is one whatever its version; a key is a checkpoint's.
        for name in ("head", "beats", "bare"):
            shutil.copy(GOLDEN / "checkpoints" / "types.pt", self.folder.path / name)
        self.assertRegex(self.folder.run("inspect", "head").stdout, "^head: ")
        self.assertIn("encoder:beats", self.folder.run("inspect", "beats").stdout)
        for name in ("bare", "./head"):
            self.assertIn("BF16 [3] bf16", self.folder.run("inspect", name).stdout)
        library = next((BUILD / "plugins").glob("**/*.so"))
        shutil.copy(library, self.folder.path / "libx.so.1")
        self.assertIn("sha256", self.folder.run("inspect", "./libx.so.1").stdout)
        for what in ("fine-tune", "dataset:table", library):
            result = self.folder.run("inspect", what, "--key", "nonsense")
            self.assertEqual(result.returncode, 2, result.stdout)
            self.assertIn("--key: goes with a checkpoint", result.stderr)

    def test_refused(self):
        here = self.folder.path / "was-here"
        import os

        files = {
            "system.pt": (torch_zip(Runs(os.system, f"touch {here}")), "posix.system"),
            "eval.pt": (torch_zip({"model": Runs(eval, f"open('{here}', 'w')")}), "eval"),
            "exec.pt": (pickle.dumps(Runs(exec, f"open('{here}', 'w')"), protocol=4), "builtins.exec"),
            "cut.pt": ((GOLDEN / "checkpoints" / "types.pt").read_bytes()[:3000], "zip"),
            "text.pt": (b"this is not a checkpoint", "is no checkpoint"),
            "empty.pt": (b"", "is no checkpoint"),
        }
        for name, (content, words) in files.items():
            (self.folder.path / name).write_bytes(content)
            for command in (("convert", name, "out.safetensors"), ("inspect", f"./{name}")):
                result = self.folder.run(*command)
                self.assertEqual(result.returncode, 1, (name, result.stderr))
                self.assertIn(words, result.stderr)
                self.assertIn(name, result.stderr)
        self.assertFalse(here.exists(), "the pickle was executed")
        self.assertEqual([path.name for path in self.folder.path.glob("out*")], [], "something was left of a file")

    def test_used_in_a_pipeline(self):
        def pipeline(**parameters):
            nodes = tiny_pipeline()["nodes"]
            clips = dict(nodes["clips[taxon]"]["with"], group="frog")
            return {"biophony": 1, "name": "p", "params": {"seed": 1}, "nodes": {
                "base": {"use": "encoder:beats", "with": dict(parameters, window_seconds=1.0)},
                "clips": {"use": "dataset:synthetic", "with": clips},
                "model": {"use": "head", "in": {"encoder": "base", "data": ["clips"]}, "with": {"kind": "ridge"}},
                "score": {"use": "evaluate", "in": {"model": "model", "data": ["clips"]}},
            }}

        def run(name, **parameters):
            self.folder.write("p.json", pipeline(**parameters))
            return self.folder.run("run", "p.json", "--out", name)

        def weights(name):
            return (self.folder.path / name / "nodes" / "base" / "encoder.safetensors").read_bytes()

        golden = GOLDEN / "checkpoints"
        result = run("twin", checkpoint=str(GOLDEN / "beats" / "beats_tiny_weights.safetensors"))
        self.assertEqual(result.returncode, 0, result.stderr)
        result = run("pt", checkpoint=str(golden / "beats_tiny_official_layout.pt"))
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(weights("pt"), weights("twin"))

        # Without a configuration: an error, then one beside it, whose content counts.
        bare = self.folder.path / "bare.pt"
        bare.write_bytes((golden / "beats_tiny_state_dict_only.pt").read_bytes())
        result = run("bare", checkpoint=str(bare))
        self.assertEqual(result.returncode, 1)
        self.assertIn("bare.model_config.json", result.stderr)
        config = json.loads(header(GOLDEN / "beats" / "beats_tiny_weights.safetensors")["__metadata__"]["cfg"])
        self.folder.write("bare.model_config.json", config)
        result = run("beside", checkpoint=str(bare))
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(weights("beside"), weights("twin"))
        self.folder.write("bare.model_config.json", dict(config, deep_norm=False))
        result = run("changed", checkpoint=str(bare))
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotEqual(weights("changed"), weights("twin"))
        self.folder.write("other.json", config)
        result = run("named", checkpoint=str(bare), config="other.json")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(weights("named"), weights("twin"))


if __name__ == "__main__":
    unittest.main()
