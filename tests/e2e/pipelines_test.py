"""Pipelines as data: every folder of tests/pipelines/ is a case, run through the program and held against what its
expect.json says; then again under other settings, which may not change a result. tests/pipelines/README.md has the
form.

    pipelines_test.py [--update] [--keep] [CASE...]
"""

import argparse
import concurrent.futures
import csv
import fnmatch
import json
import math
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import time
import wave

from support import PROGRAM, SOURCE, TINY, Folder

CASES = SOURCE / "tests" / "pipelines"
KEYS = {"about", "sounds", "command", "options", "status", "lines", "says", "nodes", "error", "skipped", "values", "files", "again"}


class Wrong(Exception):
    pass


def require(condition, message):
    if not condition:
        raise Wrong(message)


def shown(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 300 else text[:300] + "…"


def compare(what, found, expected):
    require(found == expected, f"{what}: found {shown(found)}, expected {shown(expected)}")


def square_wave(path, cycles, seconds):
    """A sound whose bytes are the same wherever it is made: a square wave of integers, 16 kHz, 16 bits."""
    frames = int(16000 * seconds)
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = [6000 if i * cycles * 2 // 16000 % 2 == 0 else -6000 for i in range(frames)]
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes(struct.pack(f"<{frames}h", *samples))


def steps(pointer):
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def looks(node):
    """Whether the node looks at the world outside, and so is made each time."""
    return node["use"].split(":")[0] in ("dataset", "background")


def value_at(document, pointer):
    for step in steps(pointer):
        document = document[int(step)] if isinstance(document, list) else document[step]
    return document


class Case:
    def __init__(self, path, update):
        self.path = path
        self.update = update
        self.expect = json.loads((path / "expect.json").read_text())
        unknown = set(self.expect) - KEYS
        require(not unknown, f"expect.json: unknown keys {sorted(unknown)}")
        require(self.expect.get("about"), "expect.json: \"about\" is missing, expected what the case shows")
        require(set(self.expect) & {"lines", "says", "nodes", "error", "skipped", "values", "files"} or update,
                "expect.json expects nothing")
        require((path / "pipeline.json").exists(), "pipeline.json is missing")

    def lay_out(self, folder):
        """A copy of the case in a folder of its own, with the sounds that it asks for."""
        shutil.copytree(self.path, folder, dirs_exist_ok=True)
        (folder / "expect.json").unlink()
        for name, sound in self.expect.get("sounds", {}).items():
            square_wave(folder / name, sound.get("cycles", 440), sound.get("seconds", 1))
        file = folder / "pipeline.json"
        file.write_text(file.read_text().replace('"$TINY"', json.dumps(TINY)))

    def run(self, folder, command, *options, cwd=None, case=None):
        case = case or folder.path / "case"
        file = os.path.relpath(case / "pipeline.json", cwd or case)
        return subprocess.run([str(PROGRAM), command, file, *self.expect.get("options", []), *options], cwd=cwd or case,
                              env=folder.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240)

    # ---- one case -----------------------------------------------------------------------------------------------------

    def test(self, keep):
        with Folder() as folder:
            self.lay_out(folder.path / "case")
            if self.expect.get("command", "run") == "check":
                self.told(self.run(folder, "check"), folder)
            else:
                self.ran(folder)
            if keep:
                shutil.copytree(folder.path, pathlib.Path("kept") / self.path.name, dirs_exist_ok=True)
        if self.update:
            (self.path / "expect.json").write_text(pretty(self.expect) + "\n")

    def told(self, result, folder):
        """Status, lines and words of what the program says."""
        here = str(folder.path.resolve() / "case") + "/"
        errors = [re.sub(r"; searched /.*", "; searched …", line) for line in result.stderr.replace(here, "").splitlines()]
        if self.update:
            self.expect["status"] = result.returncode
            if "lines" in self.expect:
                self.expect["lines"] = errors
            return
        require(result.returncode == self.expect.get("status", 0),
                f"status {result.returncode}, expected {self.expect.get('status', 0)}\n{result.stdout}{result.stderr}")
        if "lines" in self.expect:
            compare("what is told", errors, self.expect["lines"])
        for words in self.expect.get("says", []):
            require(words in result.stdout + result.stderr, f"'{words}' is not said:\n{result.stdout}{result.stderr}")

    def ran(self, folder):
        base = self.run(folder, "run", "--out", "../run", "--threads", "1")
        self.told(base, folder)
        manifest = self.manifest(folder.path / "run")
        self.nodes_are(manifest)
        self.files_are(folder.path / "run", manifest)
        if base.returncode in (0, 6):
            self.again(folder, manifest, base.returncode)

    def manifest(self, run):
        require((run / "manifest.json").exists(), "there is no manifest.json")
        manifest = json.loads((run / "manifest.json").read_text())
        for node in manifest["nodes"]:
            for port, sources in node["in"].items():  # always lists, also of one
                require(isinstance(sources, list), f"{node['id']}: the input {port} is no list: {sources}")
        return manifest

    def nodes_are(self, manifest):
        found = {node["id"]: node for node in manifest["nodes"]}
        require(len(found) == len(manifest["nodes"]), "an id stands twice in the manifest")
        if "nodes" in self.expect:
            if self.update:
                before = self.expect["nodes"]
                self.expect["nodes"] = {id: self.described(node, before.get(id, {})) for id, node in found.items()}
            compare("the nodes", sorted(found), sorted(self.expect["nodes"]))
            for id, expected in self.expect["nodes"].items():
                compare(f"node {id}", self.described(found[id], expected), expected)
        if "error" in self.expect:
            if self.update and not self.expect["error"]:
                self.expect["error"] = manifest["error"]
            require(manifest["error"] is not None and self.expect["error"] in manifest["error"],
                    f"the error: found {manifest['error']}, expected {self.expect['error']}")

    @staticmethod
    def described(node, like):
        out = {"use": node["use"], "in": node["in"], "state": node["state"]}
        if node["implied"]:
            out["implied"] = True
        if "params" in like:  # those that the case names
            out["params"] = {pointer: value_at(node["params"], pointer) for pointer in like["params"]}
        for key in ("seed", "digest"):
            if key in like:
                out[key] = node[key]
        return out

    def files_are(self, run, manifest):
        if "skipped" in self.expect:
            with open(run / "skipped.csv", newline="") as rows:
                found = [[pathlib.Path(row["file"]).name, row["reason"].replace(str(run.parent.resolve()), "…")] for row in csv.DictReader(rows)]
            if self.update:
                self.expect["skipped"] = found
            compare("skipped.csv", found, self.expect["skipped"])
        for file in self.expect.get("files", []):
            require(list((run).glob(file)), f"there is no {file} in the run directory")
        for file, values in self.expect.get("values", {}).items():
            document = json.loads((run / file).read_text())
            for pointer, expected in values.items():
                try:
                    found = value_at(document, pointer)
                except (KeyError, IndexError, TypeError):
                    raise Wrong(f"{file} has no {pointer}")
                if self.update:
                    values[pointer] = {**expected, "is": found} if isinstance(expected, dict) and "within" in expected else found
                elif isinstance(expected, dict) and "within" in expected:
                    near = isinstance(found, (int, float)) and math.isclose(found, expected["is"], rel_tol=0, abs_tol=expected["within"])
                    require(near, f"{file} {pointer}: found {found}, expected {expected['is']} ± {expected['within']}")
                else:
                    compare(f"{file} {pointer}", found, expected)

    # ---- the same under other settings --------------------------------------------------------------------------------

    def again(self, folder, first, status):
        digests = {node["id"]: node["digest"] for node in first["nodes"]}
        torch = self.depends_on_threads(first, folder)

        def run(name, *options, same=None, cached=False, store="store", **where):
            out = folder.path / f"run-{name}"
            result = self.run(folder, "run", "--out", str(out), "--store", str(folder.path / store), *options, **where)
            require(result.returncode == status, f"{name}: status {result.returncode}, expected {status}\n{result.stderr}")
            manifest = self.manifest(out)
            compare(f"{name}: the nodes", sorted(node["id"] for node in manifest["nodes"]), sorted(digests))
            for node in manifest["nodes"]:
                id = node["id"]
                if same is None or id in same:
                    compare(f"{name}: the digest of {id}", node["digest"], digests[id])
                if cached and not looks(node):
                    compare(f"{name}: the state of {id}", node["state"], "cached")
            return out

        def elsewhere():
            """The same files at another place, named from a third, with a store that is cold."""
            if "--params" in self.expect.get("options", []):
                return  # names a file from where the case lies
            case = folder.path / "another place" / "case"
            self.lay_out(case)
            run("elsewhere", "--threads", "1", store="store-elsewhere", cwd=folder.path, case=case)

        def checked_before():
            """check and plan say nothing else because they have been asked before, and leave the run as it is."""
            for command in ("check", "plan", "check"):
                result = self.run(folder, command, *(["--threads", "1"] if command == "plan" else []))
                require(result.returncode == 0, f"{command} after the run: status {result.returncode}\n{result.stderr}")
            run("checked", "--threads", "1", cached=True)

        settings = {
            "checked before": checked_before,
            "warm": lambda: run("warm", "--threads", "1", cached=True),
            "no cache": lambda: run("no-cache", "--threads", "1", "--no-cache", store="store-no-cache"),
            "said again": lambda: run("said-again", "--threads", "1", *self.what_stands_there(), cached=True),
            "another folder": elsewhere,
            "two threads": lambda: run("threads", "--threads", "2", same=set(digests) - torch, store="store-threads"),
            "jobs": lambda: [run(f"jobs-{jobs}", "--threads", "1", "--jobs", jobs, store=f"store-jobs-{jobs}") for jobs in ("1", "4")],
        }
        if "--jobs" not in run_help():
            del settings["jobs"]
        for setting in settings.values():
            setting()
        for name, more in self.expect.get("again", {}).items():
            unknown = set(more) - {"options", "same", "made", "values"}
            require(not unknown and more.get("options"), f"again/{name}: found the keys {sorted(more)}, expected options, same, made, values")
            patterns = more.get("same", [])
            same = {id for id in digests if any(fnmatch.fnmatchcase(id, pattern.replace("[", "[[]")) for pattern in patterns)}
            require(same or "values" in more or "made" in more, f"again/{name} matches no node")
            out = run(re.sub(r"\W", "-", name), "--threads", "1", *more["options"], same=same)
            if "made" in more:
                made = [node["id"] for node in self.manifest(out)["nodes"] if node["state"] == "made" and not looks(node)]
                compare(f"{name}: what is made again", sorted(made), sorted(more["made"]))
            for file, pointers in more.get("values", {}).items():
                before, after = (json.loads((place / file).read_text()) for place in (folder.path / "run", out))
                for pointer, tolerance in pointers.items():
                    a, b = value_at(before, pointer), value_at(after, pointer)
                    require(abs(a - b) <= tolerance, f"{name}: {file} {pointer}: found {b}, expected {a} ± {tolerance}")

    def what_stands_there(self):
        """--set for params, axes and parameters, with the values that they have."""
        pipeline = json.loads((self.path / "pipeline.json").read_text().replace('"$TINY"', json.dumps(TINY)))
        given = " ".join(self.expect.get("options", []))
        out = []
        for section in ("params", "axes"):
            for name, value in pipeline.get(section, {}).items():
                if f"{section}.{name}" not in given and "--params" not in given and "{" not in json.dumps(value).replace("{\"", ""):
                    out += ["--set", f"{section}.{name}={json.dumps(value)}"]
        for key, node in pipeline["nodes"].items():
            overlaid = any(field.startswith("with[") for field in node)
            for name, value in node.get("with", {}).items():
                plain = isinstance(value, (int, float, bool)) or (isinstance(value, str) and "{" not in value)
                if plain and name != "param" and not overlaid and "--set" not in given:
                    out += ["--set", f"{key.split('[')[0]}.{name}={json.dumps(value)}"]
        return out

    def depends_on_threads(self, manifest, folder):
        """The nodes that LibTorch's threads have a part in: by their own record, or through an input."""
        records = {path.parent.name: json.loads(path.read_text()) for path in (folder.path / "store" / "objects").glob("*/*/result.json")}
        out = set()
        for node in manifest["nodes"]:  # inputs stand before their users
            record = records[node["key"]]["record"] or {}  # none for what looks at the world
            if "torch" in record or any(source in out for sources in node["in"].values() for source in sources):
                out.add(node["id"])
        return out


_help = []


def run_help():
    if not _help:
        _help.append(subprocess.run([str(PROGRAM), "run", "--help"], capture_output=True, text=True, check=True).stdout)
    return _help[0]


def pretty(value, indent=0):
    """JSON with what is short on one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or (len(flat) + indent < 140 and indent > 0):
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {pretty(item, indent + 2)}" for key, item in value.items()]
    else:
        lines = [inner + pretty(item, indent + 2) for item in value]
    brackets = "{}" if isinstance(value, dict) else "[]"
    return brackets[0] + "\n" + ",\n".join(lines) + "\n" + " " * indent + brackets[1]


def wrong_cases_fail():
    """Cases that expect nothing, or what isn't so, are no good cases."""
    good = {"biophony": 1, "nodes": {"clips": {"use": "dataset:synthetic", "with": {"group": "frog"}}, "sounds": {"use": "background", "in": {"data": "clips"}}}}
    says = {"about": "x", "command": "check"}
    for expect in ({"about": "x"}, {}, {**says, "lines": ["another"]}, {**says, "says": ["another"]}, {**says, "lines": [], "status": 2},
                   {**says, "lines": [], "nodse": {}}, {"about": "x", "nodes": {}}, {"about": "x", "values": {"metrics.json": {"/none": 1}}},
                   {"about": "x", "files": ["none"]}, {"about": "x", "error": "none"}, {"about": "x", "says": [], "again": {"y": {"options": ["--no-cache"], "same": ["z"]}}}):
        with Folder() as folder:
            folder.write("case/pipeline.json", good)
            folder.write("case/expect.json", expect)
            try:
                Case(folder.path / "case", False).test(False)
            except Wrong:
                continue
            raise SystemExit(f"a case that expects {expect} did not fail")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--update", action="store_true", help="write what is found into the expect.json of the cases, to be read")
    parser.add_argument("--keep", action="store_true", help="leave copies of the folders in ./kept")
    parser.add_argument("cases", nargs="*")
    arguments = parser.parse_args()
    names = arguments.cases or sorted(path.name for path in CASES.iterdir() if path.is_dir())
    if len(names) < (1 if arguments.cases else 10):
        raise SystemExit(f"{CASES}: found {len(names)} cases, expected at least 10")
    run_help()
    if not arguments.cases:
        wrong_cases_fail()

    def one(name):
        begin = time.monotonic()
        try:
            Case(CASES / name, arguments.update).test(arguments.keep)
            return name, time.monotonic() - begin, None
        except Wrong as wrong:
            return name, time.monotonic() - begin, str(wrong)
        except Exception as error:  # a broken case, or a file that isn't there
            return name, time.monotonic() - begin, f"{type(error).__name__}: {error}"

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for name, seconds, wrong in pool.map(one, names):
            failed += wrong is not None
            print(f"{'FAILED' if wrong else 'ok':<7} {seconds:6.1f} s  {name}" + (f"\n        {wrong}" if wrong else ""), flush=True)
    print(f"{len(names)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
