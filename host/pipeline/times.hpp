// Times as runs tell them.
#pragma once

#include <chrono>
#include <string>

namespace biophony {

using Clock = std::chrono::steady_clock;

/// Seconds since `begin`.
inline double since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// "2026-02-28T12:34:56Z"
std::string now();

}  // namespace biophony
