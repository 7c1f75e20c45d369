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
/// The same in a sentence: "about 3 min 05 s", "under 1 s".
std::string estimate(double seconds);

/// Writes to standard error. Work that takes less than two seconds shows no progress. One thread at a time.
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
    void node_failed(size_t index, const GraphNode& node, const Error& error) override;
    /// A run as a whole, and its longest-running node.
    void status(const RunStatus& status) override;
    void update(double done, double total, std::string_view unit) override;
    /// Ends a line that is still being rewritten.
    void clear();

private:
    using Clock = std::chrono::steady_clock;
    std::string label() const;
    /// Whether it is time to show where work is that began then.
    bool is_due(Clock::time_point begin);
    /// One line that the next one rewrites; in a pipe a line for good. `part` of a bar, negative = none.
    void show(std::string text, double part);
    bool terminal_;
    size_t nodes_ = 0, index_ = 0, ended_ = 0;
    std::string node_, unit_;
    Clock::time_point run_begin_, node_begin_, last_shown_, unit_begin_;
    bool line_open_ = false;
};

}  // namespace biophony::app
