// How long work reports where it is. The core never prints: the application decides how it looks.
#pragma once

#include <atomic>
#include <string_view>

#include "base/error.hpp"

namespace biophony {

/// Receives "done of total"; called from the thread that works, often; must be cheap and may not throw.
class Progress {
public:
    virtual ~Progress() = default;
    /// `unit` in the plural ("clips"); total 0 = unknown.
    virtual void update(double done, double total, std::string_view unit) = 0;
};

/// Set from a signal handler or another thread, asked for by whatever takes long.
class Cancel {
public:
    void request() { requested_.store(true); }
    bool requested() const { return requested_.load(); }
    /// Throws Error(kCancelled) once requested.
    void check() const {
        if (requested()) throw Error(Code::kCancelled, "cancelled");
    }

private:
    std::atomic<bool> requested_{false};
};

}  // namespace biophony
