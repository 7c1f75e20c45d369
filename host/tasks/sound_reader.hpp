// Sound files → windows, decoded by a thread of its own beside whoever computes with them.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/progress.hpp"

namespace biophony {

/// How files are cut; everything in samples at `rate`.
struct WindowPlan {
    double rate = 16000;  ///< Hz
    int64_t window = 0;   ///< 0 = a file is one piece
    int64_t hop = 0;
    int64_t least = 1;  ///< a shorter file is a problem
    /// Why a file of so many samples can't be one piece, or empty. Called from the reading thread.
    std::function<std::string(int64_t samples)> too_long;
};

/// A window of a file, or the news that a file has ended.
struct SoundPiece {
    size_t input = 0;
    int64_t row = 0;  ///< -1: the file has ended
    std::vector<float> samples;
    // At the end of a file:
    std::string problem;  ///< why it can't be used, whatever came before; else empty
    int64_t length = 0;   ///< samples of it
};

/// Reads files one after the other: of each its pieces in order, then its end. Windows lie as window_count() says; the
/// one that reaches over the end is filled by repeating the file from its start, as everywhere in this program
/// (window_repeated()). A file's pieces are made as it is read: memory depends on the window and not on the file.
class SoundReader {
public:
    /// Reads ahead `capacity` samples, or one piece where that is longer.
    SoundReader(std::vector<std::string> files, WindowPlan plan, size_t capacity);
    SoundReader(const SoundReader&) = delete;
    SoundReader& operator=(const SoundReader&) = delete;

    /// Waits for the next; none after the last file. Throws Error(kCancelled), and what went wrong in the thread that
    /// is no file's fault.
    std::optional<SoundPiece> next(const Cancel& cancel);

private:
    void work(const std::stop_token& stop);
    // Both return the file's length, and throw Error for one that can't be used.
    int64_t read_whole(const std::stop_token& stop, size_t input);
    int64_t read_windows(const std::stop_token& stop, size_t input);
    void put(const std::stop_token& stop, SoundPiece piece);

    std::vector<std::string> files_;
    WindowPlan plan_;
    size_t capacity_;

    std::mutex mutex_;
    std::condition_variable_any room_, filled_;
    std::deque<SoundPiece> queue_;
    size_t queued_ = 0;  ///< samples
    bool finished_ = false;
    std::exception_ptr error_;
    std::jthread thread_;  ///< last: ends before the rest goes
};

}  // namespace biophony
