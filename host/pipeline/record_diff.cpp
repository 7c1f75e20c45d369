#include "pipeline/record_diff.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "pipeline/definition.hpp"

namespace biophony {

namespace {

bool is_leaf(const Json& value) {
    return !value.is_structured() || value.empty();
}

void add_leaves(const Json& value, const std::string& pointer, bool is_now, std::vector<Change>& out) {
    if (is_leaf(value)) {
        Change change{.pointer = pointer};
        (is_now ? change.now : change.then) = value;
        out.push_back(std::move(change));
    } else if (value.is_object()) {
        for (const auto& [key, inner] : value.items()) add_leaves(inner, pointer_join(pointer, key), is_now, out);
    } else {
        for (size_t i = 0; i < value.size(); ++i)
            add_leaves(value[i], pointer_join(pointer, std::to_string(i)), is_now, out);
    }
}

void compare(const Json& then, const Json& now, const std::string& pointer, std::vector<Change>& out) {
    if (then.is_object() && now.is_object()) {
        std::set<std::string> keys;
        for (const auto& entry : then.items()) keys.insert(entry.key());
        for (const auto& entry : now.items()) keys.insert(entry.key());
        for (const std::string& key : keys) {
            const std::string at = pointer_join(pointer, key);
            const auto a = then.find(key), b = now.find(key);
            if (a == then.end())
                add_leaves(*b, at, true, out);
            else if (b == now.end())
                add_leaves(*a, at, false, out);
            else
                compare(*a, *b, at, out);
        }
    } else if (then.is_array() && now.is_array()) {
        for (size_t i = 0; i < std::max(then.size(), now.size()); ++i) {
            const std::string at = pointer_join(pointer, std::to_string(i));
            if (i >= then.size())
                add_leaves(now[i], at, true, out);
            else if (i >= now.size())
                add_leaves(then[i], at, false, out);
            else
                compare(then[i], now[i], at, out);
        }
    } else if (then.is_number() && now.is_number() ? then.dump() != now.dump() : then != now) {
        // 1 and 1.0 are equal numbers, yet written differently, and nodes write their parameters into results.
        if (is_leaf(then) && is_leaf(now)) {
            out.push_back({pointer, then, now});
        } else {
            add_leaves(then, pointer, false, out);
            add_leaves(now, pointer, true, out);
        }
    }
}

bool is_file_hash(const std::optional<Json>& value) {
    return value && value->is_string() && value->get_ref<const std::string&>().starts_with("sha256:");
}

}  // namespace

std::string Change::path() const {
    std::string out;
    for (const std::string& step : steps_of(pointer)) out += (out.empty() ? "" : ".") + step;
    return out;
}

std::vector<Change> differences(const Json& then, const Json& now) {
    std::vector<Change> out;
    compare(then, now, "", out);
    return out;
}

std::string brief(const std::optional<Json>& value) {
    if (!value) return "(none)";
    std::string text =
        value->is_string() ? value->get<std::string>() : value->dump(-1, ' ', false, Json::error_handler_t::replace);
    const std::string_view digits =
        std::string_view(text).substr(text.starts_with("sha256:") ? std::string_view("sha256:").size() : 0);
    if (digits.size() == 64 && digits.find_first_not_of("0123456789abcdef") == std::string_view::npos)
        return std::string(digits.substr(0, 12)) + "…";
    constexpr size_t kLongest = 48;
    if (text.size() <= kLongest) return text.empty() ? "\"\"" : text;
    size_t end = kLongest - 1;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // between characters
    return text.substr(0, end) + "…";
}

std::string in_words(const Change& change, std::string_view type) {
    const std::vector<std::string> steps = steps_of(change.pointer);
    const std::string first = steps.empty() ? "" : steps[0];
    const std::string values = fmt::format("{} → {}", brief(change.then), brief(change.now));
    if (first == "sources" && steps.size() == 1) return fmt::format("the sources of {} changed", type);
    if (first == "params" && steps.size() > 1) {
        const std::string name = change.path().substr(std::string_view("params.").size());
        if (is_file_hash(change.then) && is_file_hash(change.now))
            return fmt::format("the file of parameter {} changed", name);
        if (!change.then) return fmt::format("parameter {} is new: {}", name, brief(change.now));
        if (!change.now) return fmt::format("parameter {} is gone (was {})", name, brief(change.then));
        return fmt::format("parameter {}: {}", name, values);
    }
    if (first == "plugins" && steps.size() == 2) {
        if (!change.then) return fmt::format("plugin {} takes part now", steps[1]);
        if (!change.now) return fmt::format("plugin {} takes no part any more", steps[1]);
        return fmt::format("plugin {} was rebuilt", steps[1]);
    }
    if (first == "torch" && steps.size() == 2) {
        if (steps[1] == "libtorch") return "LibTorch " + values;
        if (steps[1] == "cpu") return "processor class " + values;
        if (steps[1] == "threads" || steps[1] == "device") return steps[1] + " " + values;
    }
    if (first == "seed") return "seed " + values;
    if (first == "node") return "the node was called " + brief(change.then);
    if (first == "names") return fmt::format("the name of input {}: {}", change.path().substr(6), values);
    if (first == "format") return "the form of keys: " + values;
    return fmt::format("{}: {}", change.path(), values);
}

}  // namespace biophony
