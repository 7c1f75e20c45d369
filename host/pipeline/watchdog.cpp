#include "pipeline/watchdog.hpp"

namespace biophony {

Watchdog::Watchdog(const RunOptions& options, double seconds, Error error)
    : options_(options), seconds_(seconds), error_(std::move(error)) {
    if (options.cancel != nullptr && options.abandon) thread_ = std::thread([this] { watch(); });
}

double Watchdog::asked_for() const {
    const std::lock_guard lock(mutex_);
    return asked_ ? since(*asked_) : 0;
}

void Watchdog::stop() {
    {
        const std::lock_guard lock(mutex_);
        end_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
}

void Watchdog::watch() {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, std::chrono::milliseconds(20), [this] { return end_; })) {
        if (!asked_ && options_.cancel->requested()) asked_ = Clock::now();
        if (!asked_ || since(*asked_) < seconds_) continue;
        lock.unlock();
        options_.abandon(error_);
        return;
    }
}

}  // namespace biophony
