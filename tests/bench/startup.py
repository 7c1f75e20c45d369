"""Start-up: median of 21 runs each, interleaved, warm page cache; ratios to starting /bin/true in the same run."""

import os
import statistics
import subprocess
import tempfile
import time

ROUNDS = 21
PROGRAM = "build/bin/biophony"
PIPELINE = "examples/pipelines/quickstart.json"
COMMANDS = {
    "/bin/true": ["/bin/true"],
    "biophony --version": [PROGRAM, "--version"],
    "biophony plugins": [PROGRAM, "plugins"],
    "biophony check quickstart.json": [PROGRAM, "check", PIPELINE],
    "load a tier S plugin (probe)": [PROGRAM, "probe", "build/plugins/merger-average.so"],
    "load LibTorch and a tier T plugin (probe)": [PROGRAM, "probe", "build/plugins/encoder-beats.so"],
}


def main():
    with tempfile.TemporaryDirectory() as cache:
        environment = dict(os.environ, BIOPHONY_CACHE=cache)
        begin = time.perf_counter()
        subprocess.run([PROGRAM, "plugins"], env=environment, stdout=subprocess.DEVNULL, check=True)
        first = time.perf_counter() - begin
        times = {name: [] for name in COMMANDS}
        for _ in range(ROUNDS):
            for name, command in COMMANDS.items():
                begin = time.perf_counter()
                subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
                times[name].append(time.perf_counter() - begin)
    floor = statistics.median(times["/bin/true"])
    print(f"{'command':<45} {'median ms':>10} {'ratio':>7}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:<45} {1000 * median:>10.1f} {median / floor:>7.1f}")
    print(f"{'biophony plugins, everything to be probed':<45} {1000 * first:>10.1f} {first / floor:>7.1f}")
    libtorch = statistics.median(times["load LibTorch and a tier T plugin (probe)"]) - statistics.median(times["load a tier S plugin (probe)"])
    print(f"LibTorch's share of a start: {1000 * libtorch:.0f} ms")


if __name__ == "__main__":
    main()
