// The end of a cancelled command in time, whatever its threads are doing.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "pipeline/run.hpp"
#include "pipeline/times.hpp"

namespace biophony {

/// A thread that looks for RunOptions::cancel, and calls RunOptions::abandon, which doesn't come back, once it was
/// requested for so long. Does nothing where the options lack one of them. They must outlive it.
class Watchdog {
public:
    /// `seconds` after the request `error` is what abandon is told.
    Watchdog(const RunOptions& options, double seconds, Error error);
    ~Watchdog() { stop(); }
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

    /// Seconds since the cancel was requested; 0 before. Any thread.
    double asked_for() const;
    void stop();

private:
    void watch();

    const RunOptions& options_;
    const double seconds_;
    const Error error_;
    mutable std::mutex mutex_;
    std::condition_variable wake_;
    std::optional<Clock::time_point> asked_;
    bool end_ = false;
    std::thread thread_;
};

}  // namespace biophony
