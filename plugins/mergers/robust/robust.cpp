// Means that outlying experts can't move: the coordinate-wise median and the coordinate-wise trimmed mean. Yin et al.
// 2018, "Byzantine-robust distributed learning", arXiv 1803.01498, definitions 1 and 2.
#include "../numbers.hpp"

namespace sdk = biophony::sdk;

namespace {

constexpr size_t kBlock = 256;

/// Calls `use` with the experts' values in ascending order: rows of `count` places, sorted place by place. By odd-even
/// transposition (Knuth, volume 3, 5.3.4), whose steps don't depend on the values, so that places go many at a time.
template <class Use>
void sorted(const sdk::Tile& tile, Use&& use) {
    const size_t n = tile.experts();
    thread_local std::vector<float> rows;
    if (rows.size() < n * kBlock) rows.resize(n * kBlock);
    std::array<float, kBlock> larger;
    for (size_t from = 0; from < tile.size(); from += kBlock) {
        const size_t count = std::min(kBlock, tile.size() - from);
        for (size_t i = 0; i < n; ++i) std::ranges::copy(tile.expert(i).subspan(from, count), &rows[i * kBlock]);
        for (size_t step = 0; step < n; ++step)
            for (size_t i = step % 2; i + 1 < n; i += 2) {
                float *const low = &rows[i * kBlock], *const high = low + kBlock;
                for (size_t k = 0; k < count; ++k) larger[k] = low[k] < high[k] ? high[k] : low[k];
                for (size_t k = 0; k < count; ++k) low[k] = low[k] < high[k] ? low[k] : high[k];
                std::copy_n(larger.data(), count, high);
            }
        use(rows.data(), tile.out().subspan(from, count));
    }
}

/// The mean of the rows `first` … `last`.
void mean_of_rows(const float* rows, size_t first, size_t last, std::span<float> out) {
    std::array<double, kBlock> sum{};
    for (size_t i = first; i <= last; ++i)
        for (size_t k = 0; k < out.size(); ++k) sum[k] += rows[i * kBlock + k];
    const auto n = static_cast<double>(last - first + 1);
    for (size_t k = 0; k < out.size(); ++k) out[k] = static_cast<float>(sum[k] / n);
}

/// The middle value, or the mean of the two in the middle.
class CoordinateMedian : public sdk::Merger {
public:
    explicit CoordinateMedian(const sdk::Params&) {}

    void element(const sdk::Tile& tile) const override {
        const size_t n = tile.experts();
        sorted(tile, [&](const float* rows, std::span<float> out) { mean_of_rows(rows, (n - 1) / 2, n / 2, out); });
    }
};

/// The mean without the ⌊trim · N⌋ smallest and as many of the largest values.
class TrimmedMean : public sdk::Merger {
public:
    explicit TrimmedMean(const sdk::Params& params) : trim_(params.at("trim")) {}

    void element(const sdk::Tile& tile) const override {
        const size_t n = tile.experts();
        const auto off = static_cast<size_t>(trim_ * static_cast<double>(n) * (1 + 1e-12));
        if (off == 0 && trim_ > 0 && tile.offset() == 0)
            tile.call().log("trims none of " + std::to_string(n) + " experts, so it is the average", BPH_LOG_WARNING);
        sorted(tile, [&](const float* rows, std::span<float> out) { mean_of_rows(rows, off, n - 1 - off, out); });
    }

private:
    double trim_;
};

}  // namespace

BIOPHONY_PLUGIN(sdk::merger<CoordinateMedian>("coordinate-median"), sdk::merger<TrimmedMean>("trimmed-mean"))
