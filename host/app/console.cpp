#include "app/console.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace biophony::app {

std::string duration(double seconds) {
    if (seconds < 60) return fmt::format("{:.0f} s", seconds);
    if (seconds < 3600) return fmt::format("{:.0f} min {:02.0f} s", std::floor(seconds / 60), std::fmod(seconds, 60));
    return fmt::format("{:.0f} h {:02.0f} min", std::floor(seconds / 3600), std::fmod(seconds / 60, 60));
}

std::string about(double seconds) {
    return seconds < 1 ? "<1 s" : duration(seconds);
}

std::string estimate(double seconds) {
    return seconds < 1 ? "under 1 s" : "about " + duration(seconds);
}

namespace {

double since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// A pipe that nobody reads any more is no reason to end a run.
template <class... Values>
void say(fmt::format_string<Values...> format, Values&&... values) {
    const std::string text = fmt::format(format, std::forward<Values>(values)...);
    static_cast<void>(std::fwrite(text.data(), 1, text.size(), stderr));
}

}  // namespace

Console::Console() : terminal_(::isatty(STDERR_FILENO) == 1) {}

std::string Console::label() const {
    return nodes_ == 0 ? node_ : fmt::format("[{}/{}] {}", index_ + 1, nodes_, node_);
}

void Console::begin(size_t nodes) {
    nodes_ = nodes;
    ended_ = 0;
    run_begin_ = last_shown_ = Clock::now();
}

void Console::node_started(size_t index, const GraphNode& node) {
    index_ = index;
    start(node.id);
}

void Console::start(const std::string& what) {
    node_ = what;
    unit_.clear();
    node_begin_ = last_shown_ = unit_begin_ = Clock::now();
    if (terminal_) {
        say("\r\033[K{} …", nodes_ > 1 ? what : label());
        std::fflush(stderr);
        line_open_ = true;
    }
}

bool Console::is_due(Clock::time_point begin) {
    // A terminal is refreshed five times a second, a pipe gets a line every ten seconds.
    if (since(begin) < 2 || since(last_shown_) < (terminal_ ? 0.19 : 10.0)) return false;
    last_shown_ = Clock::now();
    return true;
}

void Console::show(std::string text, double part) {
    if (!terminal_) {
        say("{}\n", text);
    } else {
        constexpr int kBar = 20;
        std::string bar;
        for (int i = 0; part >= 0 && i < kBar; ++i) bar += i < static_cast<int>(kBar * std::min(1.0, part)) ? "█" : "░";
        winsize size{};
        const size_t columns = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
        if (!bar.empty() && text.size() + kBar + 2 < columns)
            text = bar + " " + text;
        else
            bar.clear();
        size_t bytes = std::min(text.size(), std::max<size_t>(columns, 20) - 1 + bar.size());
        while (bytes < text.size() && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) --bytes;
        say("\r\033[K{}", text.substr(0, bytes));
        line_open_ = true;
    }
    std::fflush(stderr);
}

void Console::update(double done, double total, std::string_view unit) {
    if (unit != unit_) {
        unit_ = unit;
        unit_begin_ = Clock::now();
    }
    if (!is_due(node_begin_)) return;
    const double elapsed = since(unit_begin_), rate = elapsed > 0 ? done / elapsed : 0;
    const bool bytes = unit == "bytes";
    const double scale = bytes ? 1e-6 : 1;
    std::string text = fmt::format("{} {:.0f}/{:.0f} {}, {:.3g} {}/s", label(), done * scale, total * scale,
                                   bytes ? "MB" : unit, rate * scale, bytes ? "MB" : unit);
    if (total > done && rate > 0) text += ", " + duration((total - done) / rate) + " left";
    show(std::move(text), total > 0 ? done / total : 0);
}

void Console::status(const RunStatus& status) {
    if (!is_due(run_begin_)) return;
    std::string text = fmt::format("{}/{} nodes, {} running", status.finished, status.nodes, status.running);
    if (status.ending) text += ", which are let end";
    if (status.seconds_left >= 1) text += ", about " + duration(status.seconds_left) + " left";
    double part = -1;
    if (status.node != nullptr) {
        text += "; " + status.node->id;
        if (status.total > 0 || status.done > 0) {
            const bool bytes = status.unit == "bytes";
            const double scale = bytes ? 1e-6 : 1;
            text +=
                fmt::format(" {:.0f}/{:.0f} {}", status.done * scale, status.total * scale, bytes ? "MB" : status.unit);
            if (status.total > 0) part = status.done / status.total;
            if (const double rate = status.unit_seconds > 0 ? status.done / status.unit_seconds : 0; rate > 0) {
                text += fmt::format(", {:.3g} {}/s", rate * scale, bytes ? "MB" : status.unit);
                if (status.total > status.done) text += ", " + duration((status.total - status.done) / rate) + " left";
            }
        } else {
            text += fmt::format(", for {}", duration(status.node_seconds));
        }
    }
    show(std::move(text), part);
}

void Console::clear() {
    if (line_open_) say("\r\033[K");
    line_open_ = false;
    std::fflush(stderr);
}

void Console::note(const GraphNode& node, std::string_view line) {
    clear();
    say("{}: {}\n", node.id, line);
}

void Console::node_finished(size_t, const GraphNode& node, bool cached, double seconds, std::string_view headline) {
    clear();
    say("[{}/{}] {}: {}{}\n", ++ended_, nodes_, node.id, cached ? "cached" : fmt::format("{:.1f} s", seconds),
        headline.empty() ? "" : fmt::format(", {}", headline));
}

void Console::node_failed(size_t, const GraphNode& node, const Error&) {
    clear();
    say("[{}/{}] {}: failed\n", ++ended_, nodes_, node.id);
}

}  // namespace biophony::app
