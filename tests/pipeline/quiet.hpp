// Follows a run and tells nobody.
#pragma once

#include "pipeline/run.hpp"

struct Quiet : biophony::RunObserver, biophony::Progress {
    void begin(size_t) override {}
    void node_started(size_t, const biophony::GraphNode&) override {}
    biophony::Progress& progress() override { return *this; }
    void note(const biophony::GraphNode&, std::string_view) override {}
    void node_finished(size_t, const biophony::GraphNode&, bool, double, std::string_view) override {}
    void update(double, double, std::string_view) override {}
};
