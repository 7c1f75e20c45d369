#include "tasks/sound_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "audio/decode.hpp"
#include "audio/window.hpp"

namespace biophony {

namespace {

constexpr size_t kBlock = 1 << 16;  // samples that are decoded at a time

/// Thrown to leave a file when nobody waits for it any more.
struct Stopped {};

/// Appends up to a block; false at the end of the file.
bool append_block(AudioStream& stream, std::vector<float>& samples) {
    const size_t before = samples.size();
    samples.resize(before + kBlock);
    const size_t got = stream.read(std::span(samples).subspan(before));
    samples.resize(before + got);
    return got == kBlock;
}

}  // namespace

SoundReader::SoundReader(std::vector<std::string> files, WindowPlan plan, size_t capacity)
    : files_(std::move(files)), plan_(std::move(plan)), capacity_(capacity) {
    thread_ = std::jthread([this](const std::stop_token& stop) { work(stop); });
}

void SoundReader::work(const std::stop_token& stop) {
    try {
        for (size_t i = 0; i < files_.size(); ++i) {
            SoundPiece end{.input = i, .row = -1};
            try {
                end.length = plan_.window > 0 ? read_windows(stop, i) : read_whole(stop, i);
                if (end.length < plan_.least)
                    end.problem = fmt::format("lasts {:.3f} s, the encoder needs {:.3f} s",
                                              static_cast<double>(end.length) / plan_.rate,
                                              static_cast<double>(plan_.least) / plan_.rate);
            } catch (const Error& error) {
                end.problem = error.message().text;
            }
            put(stop, std::move(end));
        }
    } catch (const Stopped&) {
    } catch (...) {  // no memory, or a bug
        const std::lock_guard lock(mutex_);
        error_ = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    finished_ = true;
    filled_.notify_all();
}

int64_t SoundReader::read_whole(const std::stop_token& stop, size_t input) {
    AudioStream stream(files_[input], -1, plan_.rate);
    auto check = [&](int64_t samples) {
        if (stop.stop_requested()) throw Stopped();
        if (!plan_.too_long) return;
        if (const std::string problem = plan_.too_long(samples); !problem.empty())
            throw Error(Code::kRunFailed, problem, {.file = files_[input]});
    };
    if (stream.info().frames > 0) check(std::llround(stream.info().seconds() * plan_.rate));
    std::vector<float> samples;
    while (append_block(stream, samples)) check(static_cast<int64_t>(samples.size()));
    const auto length = static_cast<int64_t>(samples.size());
    if (length >= plan_.least) put(stop, {.input = input, .row = 0, .samples = std::move(samples)});
    return length;
}

int64_t SoundReader::read_windows(const std::stop_token& stop, size_t input) {
    AudioStream stream(files_[input], -1, plan_.rate);
    const auto window = static_cast<size_t>(plan_.window), hop = static_cast<size_t>(plan_.hop);
    std::vector<float> head;    // the file's first window, to fill the last one with
    std::vector<float> buffer;  // samples from `first` on
    size_t first = 0;
    bool more = true;
    for (int64_t row = 0;; ++row) {
        const size_t start = static_cast<size_t>(row) * hop;
        // One sample beyond the window tells whether the file goes on.
        while (more && first + buffer.size() <= start + window) {
            if (stop.stop_requested()) throw Stopped();
            const size_t gone = std::min(start - first, buffer.size());
            buffer.erase(buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(gone));
            first += gone;
            more = append_block(stream, buffer);
            if (first == 0 && head.size() < window)
                head.assign(buffer.begin(),
                            buffer.begin() + static_cast<std::ptrdiff_t>(std::min(window, buffer.size())));
        }
        const size_t known = first + buffer.size();  // the file's length, once there is no more
        if (!more && (known < static_cast<size_t>(plan_.least) || start >= known)) return static_cast<int64_t>(known);
        SoundPiece piece{.input = input, .row = row};
        const auto from = buffer.begin() + static_cast<std::ptrdiff_t>(start - first);
        piece.samples.assign(from, from + static_cast<std::ptrdiff_t>(std::min(window, known - start)));
        if (piece.samples.size() < window) {
            // On from the file's start; a file shorter than a window goes round and round.
            const std::vector<float> fill = window_repeated(head, 0, window - piece.samples.size());
            piece.samples.insert(piece.samples.end(), fill.begin(), fill.end());
        }
        put(stop, std::move(piece));
        if (!more && start + window >= known) return static_cast<int64_t>(known);
    }
}

void SoundReader::put(const std::stop_token& stop, SoundPiece piece) {
    std::unique_lock lock(mutex_);
    const size_t samples = piece.samples.size();
    if (!room_.wait(lock, stop, [&] { return queue_.empty() || queued_ + samples <= capacity_; })) throw Stopped();
    queued_ += samples;
    queue_.push_back(std::move(piece));
    filled_.notify_one();
}

std::optional<SoundPiece> SoundReader::next(const Cancel& cancel) {
    std::unique_lock lock(mutex_);
    while (queue_.empty() && !finished_) {
        cancel.check();
        filled_.wait_for(lock, std::chrono::milliseconds(100));
    }
    cancel.check();
    if (queue_.empty()) {
        if (error_) std::rethrow_exception(error_);
        return {};
    }
    SoundPiece piece = std::move(queue_.front());
    queue_.pop_front();
    queued_ -= piece.samples.size();
    room_.notify_one();
    return piece;
}

}  // namespace biophony
