// Progress for people: one line that rewrites itself on a terminal, plain lines in a pipe.
#pragma once

#include <chrono>
#include <string>

#include "pipeline/run.hpp"

namespace biophony::app {

/// "12 s", "3 min 05 s", "3 h 20 min".
std::string duration(double seconds);
/// The same for times that nobody counts: "<1 s".
std::string about(double seconds);

/// Writes to standard error. Nodes that take less than two seconds show no progress of their own.
class Console : public RunObserver, public Progress {
public:
    Console();
    void begin(size_t nodes) override;
    void node_started(size_t index, const GraphNode& node) override;
    /// Work that is no run's: its progress stands under this name.
    void start(const std::string& what);
    Progress& progress() override { return *this; }
    void note(const GraphNode& node, std::string_view line) override;
    void node_finished(size_t index, const GraphNode& node, bool cached, double seconds,
                       std::string_view headline) override;
    void update(double done, double total, std::string_view unit) override;
    /// Ends a line that is still being rewritten.
    void clear();

private:
    using Clock = std::chrono::steady_clock;
    std::string label() const;
    bool terminal_;
    size_t nodes_ = 0, index_ = 0;
    std::string node_, unit_;
    Clock::time_point node_begin_, last_shown_, unit_begin_;
    bool line_open_ = false;
};

}  // namespace biophony::app
