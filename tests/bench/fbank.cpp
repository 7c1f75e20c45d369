// What the filter bank costs, one thread: bench_fbank FOLDER prints "<seconds of the clip> <microseconds per frame>"
// for clips of 10 and 60 s, and leaves each clip and its features in FOLDER as raw float32.
#include "../../plugins/encoders/beats/fbank.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace {

/// Noise whose level changes, and a tone that rises.
std::vector<float> clip(int64_t samples) {
    std::vector<float> out(static_cast<size_t>(samples));
    uint32_t state = 1;
    for (size_t n = 0; n < out.size(); ++n) {
        state = state * 1664525U + 1013904223U;
        const double t = static_cast<double>(n) / 16000, noise = static_cast<double>(state >> 8) / (1 << 23) - 1;
        const double level = 0.2 * (1.02 + std::sin(0.7 * t));
        out[n] = static_cast<float>(level * noise + 0.3 * std::sin(2 * 3.14159265 * (800 + 20 * t) * t));
    }
    return out;
}

void write(const std::string& path, const std::vector<float>& values) {
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
}

}  // namespace

int main(int argc, char** argv) {
    using biophony::beats::FilterBank;
    using Clock = std::chrono::steady_clock;
    if (argc != 2) return std::fprintf(stderr, "usage: bench_fbank FOLDER\n"), 2;
    const FilterBank bank;
    for (const int64_t seconds : {10, 60}) {
        const std::vector<float> wave = clip(seconds * 16000);
        const int64_t frames = FilterBank::frame_count(seconds * 16000);
        std::vector<float> features(static_cast<size_t>(frames * FilterBank::kMels));
        double best = 1e9;
        const Clock::time_point begin = Clock::now();
        do {
            const Clock::time_point start = Clock::now();
            bank.compute(wave.data(), 0, frames, 0, 1, features.data());
            best = std::min(best, std::chrono::duration<double, std::micro>(Clock::now() - start).count());
        } while (Clock::now() - begin < std::chrono::milliseconds(300));
        std::printf("%d %.4f\n", static_cast<int>(seconds), best / static_cast<double>(frames));
        const std::string base = std::string(argv[1]) + "/" + std::to_string(seconds);
        write(base + ".wave", wave);
        write(base + ".features", features);
    }
    return 0;
}
