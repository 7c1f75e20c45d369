"""For tests/bench/merge.sh: python3 merge_vector.py BASE EXPERT… OUT-FOLDER

Task vectors of a base, for their cost alone: an expert's weights stand where the deltas would. The base's hashes are
real, so that a merge of these files checks them as it does others'."""

import hashlib
import json
import pathlib
import shutil
import struct
import sys


def header_of(file):
    (length,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


base, *experts, out = map(pathlib.Path, sys.argv[1:])
with open(base, "rb") as file:
    header, data = header_of(file)
    hashes, record = {}, {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        file.seek(data + begin)
        hashes[name] = hashlib.sha256(file.read(end - begin)).hexdigest()
        record[name] = [entry["dtype"], entry["shape"], hashes[name]]
digest = hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
metadata = {"biophony.format": "task-vector/0", "biophony.encoder": "encoder:bench", "biophony.config": "{}",
            "biophony.roles": "{}", "biophony.encoding": "dense-f32",
            "biophony.base": json.dumps({"digest": digest, "tensors": hashes})}
for expert in experts:
    with open(expert, "rb") as file, open(out / f"vector-{expert.name}", "wb") as to:
        header, _ = header_of(file)
        head = json.dumps({"__metadata__": metadata, **header}).encode()
        head += b" " * (-len(head) % 8)
        to.write(struct.pack("<Q", len(head)) + head)
        shutil.copyfileobj(file, to, 1 << 20)
