"""biophony merge on files that are made here, byte by byte: what it computes, what it refuses and when, what is left."""

import array
import hashlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time

from support import PROGRAM, Folder

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8}


def remembered(folder):
    """Notes of weights' hashes; those of whole files, such as the program's own, are called file-…"""
    hashes = folder.path / "cache" / "hashes"
    return [path for path in hashes.iterdir() if not path.name.startswith("file-")] if hashes.exists() else []


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def encode(dtype, values):
    if dtype == "BF16":  # of numbers that BF16 holds
        return b"".join(struct.pack("<f", v)[2:] for v in values)
    return struct.pack("<%d%s" % (len(values), {"F32": "f", "F16": "e", "F64": "d", "I64": "q"}[dtype]), *values)


def decode(dtype, raw):
    if dtype == "BF16":
        return [struct.unpack("<f", b"\0\0" + raw[i : i + 2])[0] for i in range(0, len(raw), 2)]
    return list(struct.unpack("<%d%s" % (len(raw) // SIZES[dtype], {"F32": "f", "F16": "e", "F64": "d", "I64": "q"}[dtype]), raw))


def write(path, tensors, metadata=None):
    """tensors: name → (dtype, shape, values), laid out in this order."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, values) in tensors.items():
        raw = encode(dtype, values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def read(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    return metadata, {
        name: (entry["dtype"], entry["shape"], decode(entry["dtype"], raw[8 + length :][slice(*entry["data_offsets"])]))
        for name, entry in header.items()
    }


def model(seed, step_seed=None):
    """A small transformer of several types; with a step, an expert made from it."""
    draw, step = random.Random(seed), random.Random(step_seed)

    def values(count, width=0.05, grid=None):
        out = [draw.gauss(0, width) for _ in range(count)]
        if step_seed is not None:
            out = [v + step.gauss(0, width / 10) for v in out]
        return [round(v / grid) * grid for v in out] if grid else [f32(v) for v in out]

    return {
        "encoder.layers.3.fc1.weight": ("F32", [60, 50], values(3000)),
        "encoder.layers.3.fc1.bias": ("F32", [60], values(60)),
        "encoder.layer_norm.weight": ("F32", [50], values(50)),
        "half.weight": ("F16", [4, 25], values(100, 1, 2**-6)),
        "brain.weight": ("BF16", [100], values(100, 1, 2**-5)),
        "double": ("F64", [3], values(3)),
        "patch.weight": ("F32", [4, 1, 3, 3], values(36)),
        "steps": ("I64", [2], [seed, -7]),
        "none": ("F32", [0, 3], []),
    }


failures = []


def check(condition, what):
    if not condition:
        failures.append(what)
        print("FAILED:", what)


class Case:
    def __init__(self, folder):
        self.folder = folder
        self.base = write(folder.path / "base.st", model(1), {"format": "pt", "author": "someone"})
        self.experts = [write(folder.path / f"expert{i}.st", model(1, i + 10)) for i in range(3)]
        self.out = folder.path / "out.st"

    def run(self, *arguments, base=None, experts=None, out=None, **more):
        command = ["merge", *arguments, "--base", base or self.base, "--out", out or self.out]
        for expert in experts or self.experts:
            command += ["--expert", expert]
        return self.folder.run(*command, **more)

    def refused(self, what, *arguments, status=1, **more):
        """Ends with all of these texts, and leaves the folder as it was."""
        before = {p.name: p.read_bytes() for p in self.folder.path.iterdir() if p.is_file()}
        result = self.run(*arguments, **more)
        after = {p.name: p.read_bytes() for p in self.folder.path.iterdir() if p.is_file()}
        check(result.returncode == status, f"{arguments}: status {result.returncode}, expected {status}: {result.stderr}")
        for text in what:
            check(text in result.stderr, f"{arguments}: {text!r} is not in: {result.stderr}")
        check(before == after, f"{arguments}: files changed: {set(before) ^ set(after)}")


def values_of(tensors, name):
    return tensors[name][2]


def computes(case):
    result = case.run("--method", "average", "--threads", "2")
    check(result.returncode == 0, result.stderr)
    check("no encoder file" in result.stderr, "it doesn't say where roles come from")
    check("GB/s" in result.stdout and "3 experts" in result.stdout, result.stdout)
    metadata, merged = read(case.out)
    check(metadata["author"] == "someone", "the base's metadata is lost")
    told = json.loads(metadata["biophony.merge"])
    check([e["file"] for e in told["experts"]] == ["expert0.st", "expert1.st", "expert2.st"], told)
    check(json.loads(metadata["biophony.stages"])[0]["use"] == "merger:average", metadata)
    base = read(case.base)[1]
    experts = [read(path)[1] for path in case.experts]
    check(merged["steps"] == base["steps"] and merged["none"] == base["none"], "tensors that aren't floating are the base's")
    for name, (dtype, shape, values) in base.items():
        check(merged[name][:2] == (dtype, shape), f"{name}: {merged[name][:2]}, expected {dtype} {shape}")
        if dtype == "I64":
            continue
        # One rounding to the type: half a unit in the last place, beside float32's own.
        unit = {"F32": 2**-23, "F64": 2**-22, "F16": 2**-11, "BF16": 2**-8}[dtype]
        for k, value in enumerate(values):
            exact = value + sum(values_of(e, name)[k] - value for e in experts) / 3
            if abs(values_of(merged, name)[k] - exact) > unit * max(abs(exact), abs(value), *(abs(values_of(e, name)[k]) for e in experts)) + 1e-9:
                check(False, f"{name}[{k}] is {values_of(merged, name)[k]}, expected {exact}")
                break
    first = case.out.read_bytes()
    for threads in ("1", "4"):
        case.run("--method", "average", "--threads", threads)
        check(case.out.read_bytes() == first, f"{threads} threads give other bytes")
    case.run("--method", "merger:task-arithmetic", "--set", "lambda_mean=1")
    check(read(case.out)[1] == merged, "average is task arithmetic at lambda_mean 1")
    case.run("--set", "lambda_sum=0.0", "--method", "task-arithmetic", "--dtype", "float32")
    _, zero = read(case.out)
    check(all(t[0] in ("F32", "I64") for t in zero.values()), "--dtype float32")
    check(values_of(zero, "half.weight") == values_of(base, "half.weight"), "nothing of the experts is the base")
    case.run("--method", "average", "--dtype", "bfloat16")
    check(all(t[0] in ("BF16", "I64") for t in read(case.out)[1].values()), "--dtype bfloat16")
    # Methods one after the other, each with its own parameters; presets; seeds.
    once = []
    for seed in ("1", "1", "2"):
        result = case.run("--method", "random-drop", "--set", "p=0.5", "--method", "ties.global", "--set", "density=0.9", "--seed", seed)
        check(result.returncode == 0, result.stderr)
        once.append(read(case.out)[1])
    check(once[0] == once[1] != once[2], "the same seed gives the same, another another")
    told = json.loads(read(case.out)[0]["biophony.stages"])
    check([s["use"] for s in told] == ["merger:random-drop", "merger:trim", "merger:elect", "merger:disjoint-mean"], told)
    check(told[0]["with"]["p"] == 0.5 and told[1]["with"]["density"] == 0.9, told)
    # More experts than files that a process may open at first.
    command = ["merge", "--method", "average", "--base", case.base, "--out", case.out]
    for _ in range(100):
        command += ["--expert", case.experts[0], "--expert", case.experts[1], "--expert", case.experts[2]]
    result = folder_run_with_few_files(case, command)
    check(result.returncode == 0, result.stderr)
    many = values_of(read(case.out)[1], "encoder.layers.3.fc1.weight")
    check(all(abs(a - b) < 1e-6 for a, b in zip(many, values_of(merged, "encoder.layers.3.fc1.weight"))), "300 experts")
    case.out.unlink()


def folder_run_with_few_files(case, command):
    import resource

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    return case.folder.run(*command, preexec_fn=few)


def plans(case):
    result = case.run("--method", "ties.global", "--dry-run")
    check(result.returncode == 0 and not case.out.exists(), f"{result.returncode} {result.stderr}")
    for text in ("merger:trim → merger:elect → merger:disjoint-mean", "4 over the inputs", "matrix", "convolution", "norm",
                 "bias", "a checkpoint", "GB/s", "tiles of", "not written"):
        check(text in result.stdout, f"{text!r} is not in the plan: {result.stdout}")


def tells_what_went_in(case):
    """--hash: digests of base and experts, the same whether they are read or remembered; without it no digest at all,
    so that the bytes don't depend on what is remembered."""
    def digest(path):
        record = {name: [dtype, shape, hashlib.sha256(encode(dtype, values)).hexdigest()] for name, (dtype, shape, values) in read(path)[1].items()}
        return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    case.run("--method", "average")
    without = case.out.read_bytes()
    told = json.loads(read(case.out)[0]["biophony.merge"])
    check(told["base"]["digest"] is None and all(e["digest"] is None for e in told["experts"]), told)
    time.sleep(2.2)
    results = []
    for _ in range(2):
        case.run("--method", "average", "--hash")
        results.append(case.out.read_bytes())
        told = json.loads(read(case.out)[0]["biophony.merge"])
        check(told["base"]["digest"] == digest(case.base), told)
        check([e["digest"] for e in told["experts"]] == [digest(path) for path in case.experts], told)
    check(results[0] == results[1], "what is remembered gives other bytes than what is read")
    check(len(remembered(case.folder)) == 4, "hashes aren't remembered")
    case.run("--method", "average")
    check(case.out.read_bytes() == without, "without --hash the bytes depend on what is remembered")
    case.out.unlink()


def refuses(case):
    folder = case.folder
    good = model(1, 10)
    # What only names, shapes, blocks and the number of experts tell: in a plan as well.
    flat = {name: tensor for name, tensor in model(1).items() if not name.startswith("encoder.layers")}
    flat_base = write(folder.path / "flat.st", flat)
    flat_expert = write(folder.path / "flat-expert.st", {name: tensor for name, tensor in good.items() if name in flat})
    for more in ((), ("--dry-run",)):
        case.refused(["merger:pcb takes at most 80 experts, found 81"], "--method", "pcb", *more, experts=case.experts * 27, status=2)
        case.refused(["'blocks' of merger:task-arithmetic has 3 entries, expected one per block of the encoder, 4"],
                     "--method", "task-arithmetic", "--set", "blocks=[1,1,1]", *more, status=2)
        case.refused(["merger:lines goes by blocks, but no tensor of the base is in one"], "--method", "average", "--method", "lines", *more,
                     base=flat_base, experts=[flat_expert], status=2)
    flat_base.unlink(), flat_expert.unlink()
    bad = dict(good)
    del bad["double"]
    bad["more"] = ("F32", [1], [0.0])
    bad["encoder.layers.3.fc1.bias"] = ("F32", [30, 2], good["encoder.layers.3.fc1.bias"][2])
    bad["steps"] = ("I64", [2], [1, -8])
    broken = write(folder.path / "broken.st", bad)
    cut = folder.path / "cut.st"
    cut.write_bytes(case.experts[0].read_bytes()[:-1])
    case.refused(
        ["5 problems", "broken.st: lacks the tensor 'double'", "broken.st: has the tensor 'more'", "[30, 2]", "[60]",
         "broken.st: tensor 'steps' (I64) differs", "cut.st: is no valid safetensors file"],
        "--method", "average", experts=[case.experts[0], broken, cut])
    case.refused(["missing.st", "No such file"], "--method", "average", experts=[folder.path / "missing.st"])
    case.refused(["is the base itself"], "--method", "average", experts=[case.base])
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}})
    overlap = folder.path / "overlap.st"
    overlap.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(12))
    case.refused(["overlap.st", "'b'", "overlaps"], "--method", "average", base=overlap)
    for out in (case.base, case.experts[1]):
        case.refused(["the result must be another file"], "--method", "average", out=out, status=2)
    case.refused(["merger:avrage", "did you mean", "average"], "--method", "avrage", status=3)
    case.refused(["lamda", "did you mean 'lambda'", "density"], "--method", "ties.global", "--set", "lamda=1", "--set", "density=2", status=2)
    case.refused(["density"], "--method", "ties.global", "--set", "density=2", status=2)
    case.refused(["--set density=0.5 stands before"], "--set", "density=0.5", "--method", "random-drop", "--method", "ties.global", status=2)
    case.refused(["given twice"], "--method", "dare", "--set", "p=0.5", "--set", "p=0.6", status=2)
    case.refused(["no stage is a combine"], "--method", "random-drop", status=2)
    case.refused(["--dtype"], "--method", "average", "--dtype", "int8", status=2)
    case.refused(["lambda_mean", "lambda_sum"], "--method", "task-arithmetic", "--set", "lambda_mean=1", "--set", "lambda_sum=1", status=2)
    nan = dict(good)
    nan["encoder.layers.3.fc1.weight"] = ("F32", [60, 50], good["encoder.layers.3.fc1.weight"][2][:2999] + [float("nan")])
    poisoned = write(folder.path / "nan.st", nan)
    case.refused(["nan.st: tensor 'encoder.layers.3.fc1.weight' has nan at element 2999"], "--method", "average", experts=[case.experts[0], poisoned])
    large = dict(good)
    large["half.weight"] = ("F16", [4, 25], [60000.0] + good["half.weight"][2][1:])
    huge = write(folder.path / "huge.st", large)
    case.refused(["half.weight", "F16 can't hold"], "--method", "task-arithmetic", "--set", "lambda_sum=2", experts=[huge])
    for path in (broken, cut, overlap, poisoned, huge):
        path.unlink()


def vector_of(path, base, expert):
    """A task vector as biophony writes it."""
    hashes, record, deltas = {}, {}, {}
    for name, (dtype, shape, values) in base.items():
        hashes[name] = hashlib.sha256(encode(dtype, values)).hexdigest()
        record[name] = [dtype, shape, hashes[name]]
        if dtype != "I64":
            deltas[name] = ("F32", shape, [f32(b - a) for a, b in zip(values, values_of(expert, name))])
    digest = hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return write(path, deltas, dict(CARD, **{"biophony.format": "task-vector/0", "biophony.encoding": "dense-f32",
                                             "biophony.base": json.dumps({"digest": digest, "tensors": hashes})}))


CARD = {"biophony.encoder": "encoder:toy", "biophony.config": "{}",
        "biophony.roles": json.dumps({"encoder.layers.3.fc1.weight": {"kind": "matrix", "block": 3}})}


def remembers(case):
    """Task vectors: the base's hashes are remembered, and a base that changed never passes."""
    folder = case.folder
    base = write(folder.path / "encoder.st", model(1), dict(CARD, **{"biophony.format": "encoder/0"}))
    tensors = model(1)
    vectors = [vector_of(folder.path / f"vector{i}.st", tensors, model(1, i + 10)) for i in range(2)]
    young = case.run("--method", "average", base=base, experts=vectors)
    check(young.returncode == 0, young.stderr)
    metadata, merged = read(case.out)
    check(metadata["biophony.format"] == "encoder/0" and json.loads(metadata["biophony.roles"]) == json.loads(CARD["biophony.roles"]), metadata)
    check("digest" in json.loads(metadata["biophony.merge"])["base"], metadata["biophony.merge"])
    check(not remembered(folder), "a young file's hashes are remembered")
    # Mixed with a checkpoint of the same model, of which a vector says the same.
    case.run("--method", "average", base=base, experts=[vectors[0], case.experts[1]])
    _, mixed = read(case.out)
    check(all(abs(a - b) < 1e-6 for a, b in zip(values_of(mixed, "encoder.layers.3.fc1.weight"), values_of(merged, "encoder.layers.3.fc1.weight"))),
          "a checkpoint is worth its vector")
    time.sleep(2.2)
    case.run("--method", "average", base=base, experts=vectors)
    check(len(remembered(folder)) == 1, "an old file's hashes aren't remembered")
    status = os.stat(base)
    raw = bytearray(base.read_bytes())
    raw[-1] ^= 1
    with open(base, "r+b") as file:  # the same inode, size and, set back, time
        file.write(raw)
    os.utime(base, ns=(status.st_atime_ns, status.st_mtime_ns))
    case.out.unlink()
    case.refused(["vector0.st: was made from another base", "vector1.st: was made from another base"], "--method", "average", base=base, experts=vectors)


def measures(case):
    """--geometry: beside the same result, what can be calculated by hand; and what it may not overwrite."""
    folder = case.folder
    result = case.run("--method", "average")
    check(result.returncode == 0, result.stderr)
    plain = case.out.read_bytes()
    # Three random steps of a model agree in sign as a coin does: of no account for an average, but for TIES.
    check("decides by a toss" not in result.stderr, result.stderr)
    check("decides by a toss" in case.run("--method", "ties.global").stderr, "TIES isn't warned of")
    told = folder.path / "told.json"
    result = case.run("--method", "average", "--geometry", told, "--dry-run")
    check(result.returncode == 0 and "told.csv" in result.stdout and not told.exists(), f"{result.stdout} {result.stderr}")
    for threads in ("1", "3"):
        result = case.run("--method", "average", "--geometry", told, "--threads", threads)
        check(result.returncode == 0 and case.out.read_bytes() == plain, f"--geometry changes the result: {result.stderr}")
        first = told.read_bytes() if threads == "1" else first
        check(told.read_bytes() == first, "threads change the geometry")
    geometry = json.loads(told.read_text())
    check(geometry["vectors"] == ["expert0", "expert1", "expert2"] and geometry["warnings"] == [], geometry["vectors"])
    check(set(geometry["roles"]) == {"matrix", "bias", "norm", "convolution", "vector"}, geometry["roles"].keys())
    check(set(geometry["blocks"]) == {"3", "none"}, geometry["blocks"].keys())
    base, experts = read(case.base)[1], [read(path)[1] for path in case.experts]
    deltas = [[f32(b - a) for name in base if base[name][0] != "I64" for a, b in zip(values_of(base, name), values_of(e, name))] for e in experts]
    norms = [sum(x * x for x in d) ** 0.5 for d in deltas]
    for i in range(3):
        check(abs(geometry["whole"]["norms"][i] / norms[i] - 1) < 1e-6, f"norm {i}")
        for j in range(3):
            cosine = sum(x * y for x, y in zip(deltas[i], deltas[j])) / norms[i] / norms[j]
            check(abs(geometry["whole"]["cosine"][i][j] - cosine) < 1e-6, f"cosine {i} {j}")
    rows = (folder.path / "told.csv").read_text().splitlines()
    check(len(rows) == 1 + 3 * (1 + 5 + 2 + 7) and rows[1].startswith("whole,,"), f"{len(rows)} rows: {rows[:2]}")
    told.unlink(), (folder.path / "told.csv").unlink()
    # Two files of one name are told by their paths.
    other = folder.path / "other"
    other.mkdir()
    twin = write(other / "expert0.st", model(1, 20))
    case.run("--method", "average", "--geometry", told, experts=[case.experts[0], twin])
    check(json.loads(told.read_text())["vectors"] == [str(case.experts[0]), str(twin)], told.read_text()[:200])
    told.unlink(), (folder.path / "told.csv").unlink(), case.out.unlink()
    # A name that would take the place of an input or of the result; also before anything is done.
    csv = write(folder.path / "expert.csv", model(1, 21))
    for more in ((), ("--dry-run",)):
        case.refused(["--geometry", "ends in .json"], "--method", "average", "--geometry", folder.path / "told.txt", *more, status=2)
        case.refused(["--geometry", "is an expert"], "--method", "average", "--geometry", folder.path / "expert.json", *more,
                     experts=[case.experts[0], csv], status=2)
        case.refused(["--geometry", "is the result"], "--method", "average", "--geometry", folder.path / "x.json", *more,
                     out=folder.path / "x.json", status=2)
        case.refused(["--geometry", "is the result"], "--method", "average", "--geometry", folder.path / "x.json", *more,
                     out=folder.path / "." / "x.csv", status=2)
        case.refused(["--geometry", "folder isn't there"], "--method", "average", "--geometry", folder.path / "no" / "x.json", *more, status=2)
    os.symlink(case.base, folder.path / "link.json")
    case.refused(["--geometry", "is the base"], "--method", "average", "--geometry", folder.path / "link.json", status=2)
    (folder.path / "dir.json").mkdir()
    case.refused(["--geometry", "is no file"], "--method", "average", "--geometry", folder.path / "dir.json", status=2)
    for bad in ("0", "-1", "nan", "much"):
        case.refused(["--memory" if bad != "much" else "much"], "--method", "average", "--memory", bad, status=2)
    csv.unlink()


def fits(case):
    """The plan's memory is what a merge takes beyond a small one, to a few megabytes; --memory bounds it."""
    folder = case.folder
    values = array.array("f", (0.001 * (i % 1013) for i in range(1_500_000)))

    def big(name, shift):
        header, data, end = {}, b"", 0
        for tensor in ("a", "b", "c", "d"):
            header[tensor] = {"dtype": "F32", "shape": [1500, 1000], "data_offsets": [end, end + 6_000_000]}
            data += values[shift:].tobytes() + values[:shift].tobytes()
            end += 6_000_000
        head = json.dumps(header).encode()
        head += b" " * (-len(head) % 8)
        path = folder.path / name
        path.write_bytes(struct.pack("<Q", len(head)) + head + data)
        return path

    base, experts = big("base", 0), [big(f"big{i}", i + 1) for i in range(4)]
    few = []
    for expert in experts:
        few += ["--expert", str(expert)]

    def peak(*arguments, base=base, experts=few):
        """Megabytes that are resident at most, and those of the plan."""
        command = [str(PROGRAM), "merge", "--base", str(base), "--out", str(case.out), "--threads", "4", *arguments, *experts]
        plan = subprocess.run([*command, "--dry-run"], env=folder.environment, capture_output=True, text=True, check=True).stdout
        planned = float(plan.split("memory     ")[1].split(" MB")[0])
        process = subprocess.Popen(command, env=folder.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        most = 0
        while process.poll() is None:  # what wait() tells of a child counts this process as well
            with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
                most = max([most] + [int(line.split()[1]) for line in status if line.startswith("VmHWM")])
            time.sleep(0.001)
        check(process.returncode == 0, f"{arguments}: status {process.returncode}")
        return most / 1e3, planned

    start, _ = peak("--method", "average", base=case.base, experts=["--expert", str(case.experts[0])])
    seen = {}
    for name, arguments, many in (("tiles", ["--method", "average"], 1), ("counts", ["--method", "ties.global"], 8),
                                  ("whole", ["--method", "ties.nihal2026"], 1), ("bounded", ["--method", "ties.nihal2026", "--memory", "50"], 1),
                                  ("copies", ["--method", "trim.tensor", "--method", "average", "--method", "norm-match"], 1)):
        most, planned = peak(*arguments, experts=few * many)
        seen[name] = planned
        check(most - start < planned * 1.1 + 8, f"{name}: {most - start:.0f} MB, planned {planned}")
        check(most - start > planned * 0.5 - 8, f"{name}: {most - start:.0f} MB, planned {planned}")
    # One tensor of four experts, the base and two rows: 42 MB.
    check(seen["bounded"] <= 50 and 42 * 4 < seen["whole"] < 42 * 4 + 20, seen)
    check(seen["tiles"] < 20, seen)


def is_killed(case):
    """At any moment: nothing under the final name, and inputs as they were."""
    folder = case.folder
    values = array.array("f", (0.001 * (i % 1000) for i in range(4_000_000))).tobytes()

    def big(name, shift):
        header = json.dumps({"w": {"dtype": "F32", "shape": [2000, 2000], "data_offsets": [0, len(values)]}}).encode()
        header += b" " * (-len(header) % 8)
        path = folder.path / name
        path.write_bytes(struct.pack("<Q", len(header)) + header + values[shift:] + values[:shift])
        return path

    base, experts = big("big.st", 0), [big(f"big{i}.st", 4 * i + 4) for i in range(4)]
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (base, *experts)]
    command = [str(PROGRAM), "merge", "--method", "ties.global", "--base", str(base), "--out", str(case.out), "--threads", "1"]
    for expert in experts:
        command += ["--expert", str(expert)]
    begin = time.monotonic()
    subprocess.run(command, env=folder.environment, check=True, capture_output=True)
    length = time.monotonic() - begin
    whole = case.out.read_bytes()
    draw = random.Random(5)
    kills = 0
    for number in (signal.SIGKILL, signal.SIGINT) * 4:
        case.out.unlink(missing_ok=True)
        process = subprocess.Popen(command, env=folder.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=draw.uniform(0.01, length))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            process.wait()
            kills += 1
        check(not case.out.exists() or case.out.read_bytes() == whole, "a part of a result under the final name")
        if number == signal.SIGINT:
            check(process.returncode in (0, 4), f"SIGINT: status {process.returncode}")
    check(kills > 0, "nothing was killed")
    check(digests == [hashlib.sha256(p.read_bytes()).hexdigest() for p in (base, *experts)], "inputs were changed")


def main():
    for test in (computes, plans, tells_what_went_in, refuses, remembers, measures, fits, is_killed):
        with Folder() as folder:
            test(Case(folder))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
