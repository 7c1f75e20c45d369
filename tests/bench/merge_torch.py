"""For tests/bench/merge.sh: merges by PyTorch and by mergekit, each timed without its imports, and the comparison of
two results. PyTorch's merges are written to be fast: safe_open, whose tensors are views of the mapped files; sums in
place, with all threads; an average without the base, task arithmetic with one multiple of it; a thread of its own that
writes the tensor before at its final offset. For the
magnitude at which TIES trims, kthvalue (one expert after another, or all stacked), sort and topk were tried, each on one
thread with all of PyTorch's and on a thread for each expert: topk on a thread for each expert was the fastest, a third of
the time of kthvalue and a fifteenth of sort's.

    merge_torch.py torch METHOD OUT BASE EXPERT...       seconds
    merge_torch.py mergekit METHOD OUT BASE EXPERT...    seconds, seconds of the imports
    merge_torch.py compare A B                           the largest relative L2 difference of a tensor
"""

import concurrent.futures
import json
import math
import os
import sys
import time

import torch
from safetensors import safe_open

DENSITY = 0.2


def open_all(paths):
    return [safe_open(path, framework="pt") for path in paths]


def of_rank(magnitudes, kept):
    """The magnitude of this rank from above."""
    return torch.topk(magnitudes, kept, sorted=False).values.min()


def ties(deltas, thresholds, zero):
    """`zero`: the sign where the sum is 0."""
    deltas = [delta.mul_(delta.abs() >= threshold) for delta, threshold in zip(deltas, thresholds)]
    total = deltas[0].clone()
    for delta in deltas[1:]:
        total += delta
    sign = torch.sign(total) if zero == 0 else (total >= 0).float().mul_(2).sub_(1)
    total.zero_()
    count = torch.zeros_like(total)
    for delta in deltas:
        agrees = delta * sign > 0
        total += delta.mul_(agrees)
        count += agrees
    return total.div_(count.clamp_(min=1))


def global_thresholds(base, experts):
    """Over the whole vector: all magnitudes of one expert at a time."""
    names = list(base.keys())
    out = []
    for expert in experts:
        magnitudes = torch.cat([(expert.get_tensor(name) - base.get_tensor(name)).abs_().flatten() for name in names])
        out.append(of_rank(magnitudes, math.ceil(DENSITY * magnitudes.numel())))
    return out


def merge_torch(method, out, base_path, expert_paths):
    """`out` is written at final offsets into a file as large as the base, synced and renamed."""
    base, experts = safe_open(base_path, framework="pt"), open_all(expert_paths)
    n = len(experts)
    thresholds = global_thresholds(base, experts) if method == "ties.global" else None
    with open(base_path, "rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
        file.seek(0)
        head = file.read(header)
    layout = json.loads(head[8:])
    pool = concurrent.futures.ThreadPoolExecutor(torch.get_num_threads())
    with open(out + ".tmp", "wb") as file, concurrent.futures.ThreadPoolExecutor(1) as writer:
        os.truncate(file.fileno(), os.path.getsize(base_path))
        os.pwrite(file.fileno(), head, 0)

        def write(name, merged):
            os.pwrite(file.fileno(), memoryview(merged.numpy()).cast("B"), header + layout[name]["data_offsets"][0])

        pending = []
        for name in base.keys():
            if method in ("average", "task-arithmetic"):
                merged = experts[0].get_tensor(name) + experts[1].get_tensor(name)
                for expert in experts[2:]:
                    merged += expert.get_tensor(name)
                merged *= 1.0 / n if method == "average" else 0.3
                if method == "task-arithmetic":
                    merged.add_(base.get_tensor(name), alpha=1 - 0.3 * n)
            else:
                origin = base.get_tensor(name)
                deltas = [expert.get_tensor(name) - origin for expert in experts]
                kept = max(int(DENSITY * origin.numel()), 1)
                limits = thresholds or list(pool.map(lambda d: of_rank(d.abs().flatten(), kept), deltas))
                merged = ties(deltas, limits, 0 if thresholds else 1)
                merged += origin
            pending.append(writer.submit(write, name, merged))
            if len(pending) > 1:
                pending.pop(0).result()
        for rest in pending:
            rest.result()
        os.fsync(file.fileno())
    os.rename(out + ".tmp", out)


def mergekit_config(method, base, experts):
    models = [{"model": path} for path in experts]
    if method == "average":
        return {"merge_method": "linear", "models": [{**m, "parameters": {"weight": 1.0}} for m in models]}
    parameters = {"weight": 0.3} if method == "task-arithmetic" else {"weight": 1.0, "density": DENSITY}
    return {
        "merge_method": "task_arithmetic" if method == "task-arithmetic" else "ties",
        "base_model": base,
        "models": [{**m, "parameters": parameters} for m in models],
        "parameters": {"normalize": method != "task-arithmetic"},
    }


def merge_mergekit(method, out, base, experts):
    """Its command's own steps, on the processor."""
    import logging

    logging.disable(logging.WARNING)
    from mergekit.graph import Executor
    from mergekit.options import MergeOptions
    from mergekit.scripts.merge_raw_pytorch import RawPyTorchMergeConfig, plan_flat_merge

    begin = time.perf_counter()
    options = MergeOptions(device="cpu", async_write=os.environ.get("MERGEKIT_ASYNC") == "1", quiet=True)
    config = RawPyTorchMergeConfig.model_validate(mergekit_config(method, base, experts))
    tasks = plan_flat_merge(config, out, False, False, options)
    Executor(tasks, math_device="cpu", storage_device="cpu").execute()
    for folder, _, files in os.walk(out):
        for name in files:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    return time.perf_counter() - begin


def compare(a, b):
    left, right = safe_open(a, framework="pt"), safe_open(b, framework="pt")
    assert set(left.keys()) == set(right.keys()), set(left.keys()) ^ set(right.keys())
    worst = 0.0
    for name in left.keys():
        x, y = left.get_tensor(name).double(), right.get_tensor(name).double()
        worst = max(worst, ((x - y).norm() / x.norm()).item())
    return worst


def main():
    what, *rest = sys.argv[1:]
    torch.set_num_threads(int(os.environ.get("THREADS", os.cpu_count())))
    torch.set_grad_enabled(False)
    if what == "compare":
        print(f"{compare(*rest):.2e}")
    elif what == "torch":
        begin = time.perf_counter()
        merge_torch(rest[0], rest[1], rest[2], rest[3:])
        print(f"{time.perf_counter() - begin:.4f}")
    else:
        begin = time.perf_counter()
        seconds = merge_mergekit(rest[0], rest[1], rest[2], rest[3:])
        print(f"{seconds:.4f} {time.perf_counter() - begin - seconds:.2f}")


main()
