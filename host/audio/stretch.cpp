#include "audio/stretch.hpp"

#include <fmt/format.h>
#include <soxr.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "audio/decode.hpp"

namespace biophony {

namespace {

constexpr double kMarginSeconds = 0.05;

[[noreturn]] void fail(const std::string& message) {
    throw Error(Code::kRunFailed, message);
}

void require_rate(double rate) {
    if (!std::isfinite(rate) || rate <= 0) fail(fmt::format("found the sample rate {} Hz, expected one above 0", rate));
}

/// The first `length` samples of `in` at the other rate; `in` is followed by silence.
std::vector<float> convert(std::vector<float> in, double from, double to, size_t length) {
    if (length == 0) return {};
    const auto needed = static_cast<size_t>(std::ceil(static_cast<double>(length) * from / to)) + 1;
    if (in.size() < needed) in.resize(needed, 0.0F);
    std::vector<float> out(length, 0.0F);
    const soxr_io_spec_t io = soxr_io_spec(SOXR_FLOAT32_I, SOXR_FLOAT32_I);
    const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
    const soxr_runtime_spec_t runtime = soxr_runtime_spec(1);
    size_t done = 0;
    const soxr_error_t error = soxr_oneshot(from, to, 1, in.data(), in.size(), nullptr, out.data(), out.size(), &done,
                                            &io, &quality, &runtime);
    if (error != nullptr) fail(fmt::format("resampling from {} Hz to {} Hz: {}", from, to, error));
    if (done != length)
        fail(fmt::format("resampling from {} Hz to {} Hz gave {} samples, expected {}", from, to, done, length));
    return out;
}

bool is_whole(double x) {
    return x == std::floor(x) && x < 1e9;
}

}  // namespace

std::vector<float> resample(const std::vector<float>& samples, double from, double to) {
    require_rate(from);
    require_rate(to);
    if (from == to) return samples;
    return convert(samples, from, to,
                   static_cast<size_t>(resampled_length(static_cast<double>(samples.size()), from, to)));
}

int64_t resampled_length(double samples, double from, double to) {
    return std::llround(samples * to / from);
}

Margin leading_margin(double own, double rate) {
    if (own == rate) return {};
    const bool whole = is_whole(own) && is_whole(rate);
    const int64_t step =
        whole ? static_cast<int64_t>(own) / std::gcd(static_cast<int64_t>(own), static_cast<int64_t>(rate)) : 1;
    const int64_t in = (static_cast<int64_t>(std::ceil(kMarginSeconds * own)) + step - 1) / step * step;
    return {in, std::llround(static_cast<double>(in) * rate / own)};
}

std::vector<float> read_stretch(const SampleSource& source, double start_s, double end_s, double rate) {
    require_rate(rate);
    require_rate(source.rate);
    const double own = source.rate;
    if (!std::isfinite(start_s) || start_s < 0) fail(fmt::format("found the start {} s, expected 0 or more", start_s));
    const bool to_the_end = std::isnan(end_s);
    if (!to_the_end && !(end_s > start_s))
        fail(fmt::format("found the end {} s, expected one after the start at {} s", end_s, start_s));

    const int64_t no_end = std::numeric_limits<int64_t>::max();
    int64_t frames = source.frames < 0 ? no_end : source.frames;
    const auto too_late = [&](int64_t known) {
        fail(fmt::format("the stretch begins at {} s, but there are only {} s", start_s,
                         static_cast<double>(known) / own));
    };
    if (start_s * own >= 1e15) fail(fmt::format("found the start {} s, which no recording has", start_s));
    const int64_t first = std::llround(start_s * own);
    if (first >= frames) too_late(frames);

    // In output samples; cut again below where the signal turns out to be shorter than announced.
    const auto length_up_to = [&](int64_t end) {
        return to_the_end || end_s * own > static_cast<double>(end)
                   ? resampled_length(static_cast<double>(end) - start_s * own, own, rate)
                   : std::llround((end_s - start_s) * rate);
    };

    // The margins keep the filter's ringing at the cut out of the result. The leading one is a whole number of samples
    // at both rates, so that a stretch is the same as that part of the whole file resampled.
    const auto [margin, margin_out] = leading_margin(own, rate);
    const int64_t tail = own == rate ? 0 : static_cast<int64_t>(std::ceil(kMarginSeconds * own));
    const int64_t begin = std::max<int64_t>(0, first - margin);
    int64_t end = frames;
    if (!to_the_end && end_s * own < 1e15)
        end = std::min(frames, first + static_cast<int64_t>(std::ceil((end_s - start_s) * own)) + 1 + tail);
    std::vector<float> in = source.read(begin, end == no_end ? no_end : end - begin);
    const int64_t seen = begin + static_cast<int64_t>(in.size());
    if (seen < end) frames = seen;
    if (first >= frames) too_late(frames);

    const int64_t length = frames == no_end ? std::llround((end_s - start_s) * rate) : length_up_to(frames);
    if (length <= 0) return {};
    if (own == rate) {
        in.resize(std::min<size_t>(in.size(), static_cast<size_t>(length)));
        return in;
    }
    in.insert(in.begin(), static_cast<size_t>(margin - (first - begin)), 0.0F);
    std::vector<float> out = convert(std::move(in), own, rate, static_cast<size_t>(margin_out + length));
    out.erase(out.begin(), out.begin() + margin_out);
    return out;
}

}  // namespace biophony
