"""What the end-to-end tests share: the program, a small pipeline, digests of results."""

import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import wave

BUILD = pathlib.Path(os.environ.get("BPH_BUILD_DIR", "build")).resolve()
SOURCE = pathlib.Path(os.environ.get("BPH_SOURCE_DIR", ".")).resolve()
PROGRAM = BUILD / "bin" / "biophony"

# Small enough for seconds, and every node type in it.
TINY = {
    "encoder_layers": 1, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2, "embed_dim": 32,
    "conv_pos": 16, "conv_pos_groups": 4, "num_buckets": 32, "max_distance": 80, "dropout": 0.1, "encoder_layerdrop": 0.0,
    "window_seconds": 1.0,
}


def tiny_pipeline(**changes):
    pipeline = {
        "biophony": 1,
        "name": "tiny",
        "params": {"seed": 3},
        "axes": {"taxon": ["frog", "cricket"], "lambda": [0.5]},
        "nodes": {
            "base": {"use": "encoder:beats", "with": TINY},
            "clips[taxon]": {
                "use": "dataset:synthetic",
                "with": {"group": "{taxon}", "species": 2, "recordings": 5, "clips": 1, "clip_seconds": 1.0},
            },
            "pretrained": {
                "use": "pretrain",
                "in": {"encoder": "base", "data": ["clips[*]"], "backgrounds": "clips[frog]"},
                "with": {"steps": 3, "batch": 8, "log_every": 2, "masked": {"weight": 0.5}},
            },
            "expert[taxon]": {
                "use": "fine-tune",
                "in": {"encoder": "base", "data": "clips[taxon]"},
                "with": {"recipe": "small", "epochs": 2, "batch": 4},
            },
            "vector[taxon]": {"use": "task-vector", "in": {"base": "base", "model": "expert[taxon]"}},
            "joint": {
                "use": "fine-tune",
                "in": {"encoder": "base", "data": ["clips[*]"]},
                "with": {"recipe": "small", "epochs": 2, "batch": 4},
            },
            "merged": {"use": "compose", "in": {"base": "base", "vectors": ["vector[*]"]}, "with": {"stages": [{"use": "merger:average"}]}},
            "one": {
                "use": "compose",
                "in": {"base": "base", "vectors": ["vector[*]"]},
                "with": {"stages": [{"use": "merger:task-arithmetic", "with": {"lambda_mean": 1}}]},
            },
            "model": {"use": "head", "in": {"encoder": "merged", "data": ["clips[*]"]}, "with": {"kind": "ridge"}},
            "score": {"use": "evaluate", "in": {"model": "model", "data": ["clips[*]"]}, "with": {"row": "average"}},
            "table": {"use": "table", "in": {"scores": ["score"], "joint": "joint", "base": "base", "experts": ["expert[*]"]}},
        },
    }
    pipeline.update(changes)
    return pipeline


class Folder:
    """A temporary folder with a store and a cache of its own."""

    def __init__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="bph-e2e-"))
        self.environment = dict(os.environ, BIOPHONY_CACHE=str(self.path / "cache"), BIOPHONY_STORE=str(self.path / "store"))
        self.environment.pop("BIOPHONY_PLUGIN_PATH", None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def write(self, name, content):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
        return path

    def run(self, *arguments, timeout=300, **more):
        environment = dict(self.environment, **more.pop("environment", {}))
        return subprocess.run(
            [str(PROGRAM), *map(str, arguments)], cwd=self.path, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout, **more)

    def check_schemas(self, *folders):
        """Checks every JSON file of run directories by its published schema; the number of files."""
        by_schema = {}
        for folder in folders:
            root = self.path / folder
            for path in sorted(root.rglob("*.json*")):
                name = path.name.split(".")[0]
                if name == "metrics":
                    name = "metrics" if path.parent == root else "evaluation"
                by_schema.setdefault(name, []).append(path)
        for name, files in by_schema.items():
            for at in range(0, len(files), 100):
                checks = [argument for file in files[at : at + 100] for argument in ("--check", file)]
                checked = self.run("schema", name, *checks)
                assert checked.returncode == 0, checked.stderr
        return sum(map(len, by_schema.values()))

    def results(self, run):
        """Node → {file: SHA-256}, of every result in a run directory, without what depends on the place or the time."""
        out = {}
        nodes = self.path / run / "nodes"
        for path in sorted(nodes.rglob("*")):
            if path.is_file() and not path.name.endswith(".local.json"):
                out[str(path.relative_to(nodes))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return out


def write_wav(path, seconds=1.0, rate=16000, pitch=440.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    import math

    frames = b"".join(struct.pack("<h", int(12000 * math.sin(2 * math.pi * pitch * i / rate))) for i in range(int(seconds * rate)))
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(frames)
