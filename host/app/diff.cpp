#include <fmt/format.h>

#include "app/command.hpp"
#include "pipeline/run_diff.hpp"

namespace biophony::app {

namespace {

Json json_of(const std::vector<Change>& changes) {
    Json out = Json::array();
    for (const Change& change : changes) {
        Json entry = {{"pointer", change.pointer}};
        if (change.then) entry["first"] = *change.then;
        if (change.now) entry["second"] = *change.now;
        out.push_back(entry);
    }
    return out;
}

Json json_of(const std::optional<double>& value) {
    return value ? Json(*value) : Json(nullptr);
}

Json json_of(const RunDifference& difference, const std::string& first, const std::string& second) {
    Json nodes = Json::array(), figures = Json::array();
    for (const RunDifference::Node& node : difference.nodes)
        nodes.push_back({{"id", node.id}, {"changes", json_of(node.changes)}});
    for (const RunDifference::Figure& figure : difference.figures)
        figures.push_back({{"node", figure.node},
                           {"group", figure.group},
                           {"figure", figure.name},
                           {"first", json_of(figure.first)},
                           {"second", json_of(figure.second)}});
    return {{"format", "biophony-diff/0"},
            {"first", first},
            {"second", second},
            {"differ", !difference.empty()},
            {"plugins", json_of(difference.plugins)},
            {"environment", json_of(difference.environment)},
            {"nodes", nodes},
            {"only_first", difference.only_first},
            {"only_second", difference.only_second},
            {"data", difference.data},
            {"results", difference.results},
            {"unfinished", difference.unfinished},
            {"same_results", difference.same_results},
            {"figures", figures},
            {"same_figures", difference.same_figures}};
}

void print_names(const char* title, const std::vector<std::string>& names) {
    if (names.empty()) return;
    constexpr size_t kShown = 20;
    fmt::print("{}\n", title);
    for (size_t i = 0; i < std::min(kShown, names.size()); ++i) fmt::print("  {}\n", names[i]);
    if (names.size() > kShown) fmt::print("  … and {} more\n", names.size() - kShown);
}

void print_changes(const std::vector<Change>& changes, const char* indent) {
    size_t width = 0;
    for (const Change& change : changes) width = std::max(width, change.path().size());
    for (const Change& change : changes)
        fmt::print("{}{:<{}}  {} → {}\n", indent, change.path(), width, brief(change.then), brief(change.now));
}

std::string number(const std::optional<double>& value) {
    return value ? fmt::format("{:.4g}", *value) : "–";
}

void print_figures(const RunDifference& difference) {
    if (difference.figures.empty()) return;
    size_t width = 4, of_groups = 0, in_one = 0;
    for (const auto& figure : difference.figures) width = std::max(width, figure.node.size());
    fmt::print("Figures over all groups\n");
    for (const auto& figure : difference.figures) {
        if (!figure.first || !figure.second) {
            ++in_one;  // the node is listed above
        } else if (figure.group != "all") {
            ++of_groups;
        } else {
            fmt::print("  {:<{}}  {:<25}  {:>8} → {:<8}  {:+.4g}\n", figure.node, width, figure.name,
                       number(figure.first), number(figure.second), *figure.second - *figure.first);
        }
    }
    fmt::print("  ({} more of single groups differ, {} are in one run only, {} are equal; --format json has them)\n",
               of_groups, in_one, difference.same_figures);
}

}  // namespace

int diff_command(const std::vector<std::string>& arguments) {
    options::options_description described;
    described.add_options()("_first", options::value<std::string>()->required(), "");
    described.add_options()("_second", options::value<std::string>()->required(), "");
    described.add_options()("exit-code", "ends with status 1 where they differ");
    add_format_option(described);
    options::positional_options_description positional;
    positional.add("_first", 1).add("_second", 1);
    options::variables_map values;
    if (!parse(arguments, "diff RUN RUN [--format text|json] [--exit-code]",
               "Says what differs between two run directories: plugins, environment, nodes and their parameters, what "
               "data sets found, results, figures. Times and places don't count.",
               described, positional, values))
        return 0;
    const bool json = format_of(values) == "json";
    const std::string first = values["_first"].as<std::string>(), second = values["_second"].as<std::string>();
    const RunDifference difference = compare_runs(first, second);
    const int status = values.count("exit-code") > 0 && !difference.empty() ? 1 : 0;
    if (json) {
        print_json(json_of(difference, first, second));
        return status;
    }
    if (!difference.plugins.empty()) fmt::print("Plugins\n");
    print_changes(difference.plugins, "  ");
    if (!difference.environment.empty()) fmt::print("Environment\n");
    print_changes(difference.environment, "  ");
    print_names(("Nodes only in " + first).c_str(), difference.only_first);
    print_names(("Nodes only in " + second).c_str(), difference.only_second);
    if (!difference.nodes.empty()) fmt::print("Nodes of both\n");
    for (const RunDifference::Node& node : difference.nodes) {
        fmt::print("  {}\n", node.id);
        print_changes(node.changes, "    ");
    }
    print_names("Data sets that found something else", difference.data);
    print_names("Nodes that only one of them finished", difference.unfinished);
    print_names("Results with other bytes", difference.results);
    print_figures(difference);
    if (difference.empty())
        fmt::print("no difference: {} results and {} figures are equal\n", difference.same_results,
                   difference.same_figures);
    else
        fmt::print("{} results are equal, {} differ\n", difference.same_results,
                   difference.data.size() + difference.results.size());
    return status;
}

}  // namespace biophony::app
