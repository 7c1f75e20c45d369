#include "tasks/quiet.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace biophony {

namespace {

constexpr double kBlocksPerSecond = 100;
constexpr size_t kBlocksAtOnce = 30000;  // five minutes in memory

/// Sums over everything before a block.
struct Sums {
    double sum = 0, squares = 0;
    size_t samples = 0, equal = 0;  ///< equal: blocks whose samples are all the same
};

}  // namespace

QuietFound quietest(const std::function<std::vector<float>(size_t first, size_t count)>& read, double rate,
                    std::span<const std::pair<double, double>> busy, const QuietSearch& search) {
    auto sample_of = [rate](size_t block) {
        return static_cast<size_t>(std::llround(static_cast<double>(block) * rate / kBlocksPerSecond));
    };
    std::vector<Sums> before(1);
    QuietFound found;
    for (bool more = true; more;) {
        const size_t block = before.size() - 1, first = sample_of(block);
        const std::vector<float> samples = read(first, sample_of(block + kBlocksAtOnce) - first);
        for (size_t b = block; b < block + kBlocksAtOnce; ++b) {
            const size_t from = sample_of(b) - first, to = sample_of(b + 1) - first;
            more = to <= samples.size();
            if (!more) break;
            Sums next = before.back();
            bool equal = true;
            for (size_t i = from; i < to; ++i) {
                next.sum += samples[i];
                next.squares += static_cast<double>(samples[i]) * samples[i];
                equal = equal && samples[i] == samples[from];
            }
            next.samples += to - from;
            next.equal += equal ? 1 : 0;
            before.push_back(next);
        }
    }
    found.silence = before.back().equal > 0;

    const auto length = static_cast<size_t>(std::ceil(search.seconds * kBlocksPerSecond - 1e-6));
    struct Candidate {
        bool is_busy = false;
        double power = 0;
        size_t block = 0;
    };
    std::vector<Candidate> candidates;
    for (size_t b = 0; b + length < before.size(); ++b) {
        const Sums &from = before[b], &to = before[b + length];
        if (to.equal != from.equal) continue;
        const auto n = static_cast<double>(to.samples - from.samples);
        const double mean = (to.sum - from.sum) / n;
        const double start = static_cast<double>(b) / kBlocksPerSecond, end = start + search.seconds;
        const bool is_busy = std::any_of(busy.begin(), busy.end(), [&](const auto& stretch) {
            return stretch.first < end && start < stretch.second;
        });
        candidates.push_back({is_busy, std::max(0.0, (to.squares - from.squares) / n - mean * mean), b});
    }
    std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
        return std::tie(a.is_busy, a.power, a.block) < std::tie(b.is_busy, b.power, b.block);
    });
    std::vector<size_t> taken;
    for (const Candidate& candidate : candidates) {
        if (taken.size() >= search.most) break;
        if (std::any_of(taken.begin(), taken.end(), [&](size_t other) {
                return std::max(candidate.block, other) - std::min(candidate.block, other) < length;
            }))
            continue;
        taken.push_back(candidate.block);
        const double start = static_cast<double>(candidate.block) / kBlocksPerSecond;
        found.stretches.push_back({start, start + search.seconds, std::sqrt(candidate.power)});
    }
    std::sort(found.stretches.begin(), found.stretches.end(),
              [](const QuietStretch& a, const QuietStretch& b) { return a.start_s < b.start_s; });
    return found;
}

}  // namespace biophony
