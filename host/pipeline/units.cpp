#include "pipeline/units.hpp"

#include <fmt/format.h>

#include <charconv>
#include <map>

#include "base/error.hpp"

namespace biophony {

namespace {

/// The number in front of a unit, and how many bytes of the text it takes; 0 where there is none.
size_t number_of(const std::string& text, double& number) {
    const auto [end, problem] =
        std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
    return problem != std::errc() || number < 0 ? 0 : static_cast<size_t>(end - text.data());
}

/// Throws unless text is a number with one of these units and the product is below 2⁶³.
double parse(std::string_view option, const std::string& text, const std::map<std::string, double>& units,
             const char* expected) {
    double number = 0;
    const size_t digits = number_of(text, number);
    const auto unit = units.find(text.substr(digits));
    if (digits == 0 || unit == units.end() || !(number * unit->second < 9.2e18))
        throw Error(Code::kInvalid, fmt::format("{}: found '{}', expected {}", option, text, expected));
    return number * unit->second;
}

}  // namespace

int64_t parse_duration(std::string_view option, const std::string& text) {
    static const std::map<std::string, double> units = {
        {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}, {"w", 7 * 86400}};
    return static_cast<int64_t>(
        parse(option, text, units, "a duration like 30d: a number and s, m (minutes), h, d or w"));
}

uint64_t parse_bytes(std::string_view option, const std::string& text) {
    static const std::map<std::string, double> units = {{"", 1},
                                                        {"B", 1},
                                                        {"kB", 1e3},
                                                        {"KB", 1e3},
                                                        {"MB", 1e6},
                                                        {"GB", 1e9},
                                                        {"TB", 1e12},
                                                        {"KiB", 1024},
                                                        {"MiB", 1024. * 1024},
                                                        {"GiB", 1024. * 1024 * 1024},
                                                        {"TiB", 1024. * 1024 * 1024 * 1024}};
    return static_cast<uint64_t>(
        parse(option, text, units, "a size like 10GB: a number and B, kB, MB, GB, TB, or KiB, MiB, GiB, TiB"));
}

std::string bytes_text(uint64_t bytes) {
    if (bytes < 1000) return fmt::format("{} B", bytes);
    double value = static_cast<double>(bytes);
    for (const char* unit : {"kB", "MB", "GB"}) {
        value /= 1000;
        if (value < 999.95) return fmt::format("{:.1f} {}", value, unit);
    }
    return fmt::format("{:.1f} TB", value / 1000);
}

}  // namespace biophony
