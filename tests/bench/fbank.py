"""The filter bank beside torchaudio's compliance.kaldi.fbank and kaldi-native-fbank, one thread each, on 10 s and 60 s.

Whatever of the two this Python has is measured; first all must agree in numbers. Rounds alternate, the best of each counts.

kaldi-native-fbank refuses filters without a bin of the transform, which this filter bank has one of; so it is measured with
its lowest filter from 200 Hz on, which is as much work, and checked against torchaudio with the same setting."""

import array
import pathlib
import subprocess
import sys
import tempfile
import time

ROUNDS = 5
LOWEST = 200  # Hz, for kaldi-native-fbank


def peer_torchaudio():
    import torch
    from torchaudio.compliance import kaldi

    torch.set_num_threads(1)

    def make(samples):
        wave = torch.frombuffer(bytearray(samples), dtype=torch.float32).unsqueeze(0) * 32768

        def work(low=20):
            return kaldi.fbank(wave, num_mel_bins=128, low_freq=low, sample_frequency=16000, frame_length=25, frame_shift=10)

        return work, lambda found: found.flatten().tolist()

    return make


def peer_kaldi_native_fbank():
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 128
    options.mel_opts.low_freq = LOWEST

    def make(samples):
        # A list, as it takes longer over anything else; still its reading of Python's numbers is counted.
        wave = [value * 32768 for value in array.array("f", samples)]

        def work():  # accept_waveform computes all whole frames; reading them out is not counted
            bank = kaldi_native_fbank.OnlineFbank(options)
            bank.accept_waveform(16000, wave)
            return bank

        def read(bank):
            return [value for frame in range(bank.num_frames_ready) for value in bank.get_frame(frame).tolist()]

        return work, read

    return make


def compare(found, expected):
    """The largest difference within 15 nats of a frame's maximum; complains where one is above what float32 transforms
    differ by: twice what each is from a computation in double (tests/golden/README.md), and a little."""
    if len(found) != len(expected):
        sys.exit(f"{len(found)} values, expected {len(expected)}")
    loud = 0.0
    for begin in range(0, len(expected), 128):
        top = max(expected[begin : begin + 128])
        for i in range(begin, begin + 128):
            below, error = top - expected[i], abs(found[i] - expected[i])
            if error > (5e-4 if below <= 15 else 2e-3 if below <= 20 else 0.09):
                sys.exit(f"frame {begin // 128}, band {i - begin}: {found[i]}, expected {expected[i]}")
            if below <= 15:
                loud = max(loud, error)
    return loud


def main():
    program = sys.argv[1]
    peers = {}
    for name, peer in (("torchaudio", peer_torchaudio), ("kaldi-native-fbank", peer_kaldi_native_fbank)):
        try:
            peers[name] = peer()
        except ImportError as error:
            print(f"{name}: not there ({error}); BIOPHONY_PEERS names a Python that has it")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def ours():
            lines = subprocess.run([program, folder], check=True, capture_output=True, text=True).stdout.split()
            return {int(seconds): float(cost) for seconds, cost in zip(lines[::2], lines[1::2])}

        best = {seconds: {"biophony": cost} for seconds, cost in ours().items()}
        work = {}
        for seconds in best:
            samples = (folder / f"{seconds}.wave").read_bytes()
            features = array.array("f", (folder / f"{seconds}.features").read_bytes())
            expected = {"torchaudio": features}
            for name, make in peers.items():
                run, read = make(samples)
                if name in expected:
                    found = compare(read(run()), expected[name])
                    print(f"{seconds} s: {name} agrees, to {found:.1e} within 15 nats of the frame's maximum")
                else:
                    print(f"{seconds} s: {name} is not checked, as torchaudio is not there")
                if name == "torchaudio":
                    expected["kaldi-native-fbank"] = read(run(LOWEST))
                work[seconds, name] = run
        for _ in range(ROUNDS):
            for seconds, cost in ours().items():
                best[seconds]["biophony"] = min(best[seconds]["biophony"], cost)
            for (seconds, name), run in work.items():
                frames = 1 + (seconds * 16000 - 400) // 160
                end = time.perf_counter() + 0.3
                while time.perf_counter() < end:
                    start = time.perf_counter()
                    run()
                    cost = (time.perf_counter() - start) * 1e6 / frames
                    best[seconds][name] = min(best[seconds].get(name, cost), cost)
    print(f"{'clip':<6}{'one thread':<20}{'µs a frame':>11}{'× of biophony':>15}")
    for seconds, costs in best.items():
        for name, cost in costs.items():
            print(f"{seconds:>3} s {name:<20}{cost:>11.2f}{cost / costs['biophony']:>15.2f}")


if __name__ == "__main__":
    main()
