"""The official BEATs code doing what tests/bench/encoder.cpp does, for tests/bench/encoder.py. Prints one JSON object.

    encoder_peer.py FOLDER MODE BATCH SECONDS PRECISION REPEATS THREADS CHECKPOINT

FOLDER has the published BEATs.py, backbone.py and modules.py (microsoft/unilm, beats/). CHECKPOINT is a file of
`bench_encoder … save`, whose weights and configuration the official classes take. MODE: forward, train, or compare,
which prints the largest difference to CHECKPOINT.frames.
"""
import json
import resource
import struct
import sys
import time
import types


def read_safetensors(path):
    import numpy
    import torch

    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = torch.from_numpy(numpy.frombuffer(data[begin:end], "<f4").copy()).reshape(entry["shape"])
    return metadata, tensors


def main():
    folder, mode, batch, seconds, precision, repeats, threads, checkpoint = sys.argv[1:9]
    batch, repeats = int(batch), int(repeats)
    try:
        import torchaudio.compliance.kaldi  # noqa: F401
    except Exception:  # the encoder is measured from the front end's features on, so that its import may be empty
        for name in ("torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi"):
            sys.modules[name] = types.ModuleType(name)
    import warnings

    import torch

    warnings.simplefilter("ignore", FutureWarning)  # of the peer's weight norm
    sys.path.insert(0, folder)
    from BEATs import BEATs, BEATsConfig

    torch.set_num_threads(int(threads))
    metadata, tensors = read_safetensors(checkpoint)
    config = {**json.loads(metadata["biophony.config"]), "finetuned_model": False, "encoder_layerdrop": 0.0}
    model = BEATs(BEATsConfig(config))
    table = tensors["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    for layer in range(1, config["encoder_layers"]):
        tensors[f"encoder.layers.{layer}.self_attn.relative_attention_bias.weight"] = table
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and all("weight" in name or "pos_conv" in name for name in missing), (missing, unexpected)
    assert not missing, missing

    frames = 1 + (int(float(seconds) * 16000) - 400) // 160
    if mode == "compare":
        import numpy

        features = torch.from_numpy(numpy.fromfile(checkpoint + ".features", "<f4")).reshape(batch, frames, 128)
        expected = torch.from_numpy(numpy.fromfile(checkpoint + ".frames", "<f4"))
        model.preprocess = lambda source, **_: source
        model.eval()
        with torch.no_grad():
            found, _ = model.extract_features(features)
        print(json.dumps({"difference": float((found.flatten() - expected).abs().max())}))
        return
    features = torch.randn(batch, frames, 128) * 0.5
    model.preprocess = lambda source, **_: source
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    times = []
    if mode == "forward":
        model.eval()
        with torch.no_grad(), autocast:
            for step in range(repeats + 1):
                begin = time.perf_counter()
                model.extract_features(features)
                if step:
                    times.append(time.perf_counter() - begin)
    else:
        model.train()
        decayed = [p for p in model.parameters() if p.dim() > 1]
        plain = [p for p in model.parameters() if p.dim() <= 1]
        optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0}], lr=1e-5, fused=True
        )
        for step in range(repeats + 1):
            begin = time.perf_counter()
            optimiser.zero_grad()
            with autocast:
                out, _ = model.extract_features(features)
            out.float().mean(1).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            if step:
                times.append(time.perf_counter() - begin)
    times.sort()
    median = times[len(times) // 2]
    print(
        json.dumps(
            {
                "best": times[0],
                "median": median,
                "clips_per_second": batch / median,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


main()
