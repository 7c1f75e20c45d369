#include "pipeline/diagram.hpp"

#include <fmt/format.h>

#include <map>
#include <set>
#include <tuple>

namespace biophony {

namespace {

struct Look {
    std::string_view output, colour, dot_shape, mermaid_open, mermaid_close;
};

constexpr Look kLooks[] = {
    {port::kDataset, "#d5ead5", "cylinder", "[(", ")]"},       {port::kEncoder, "#cfe0f5", "box", "[", "]"},
    {port::kCheckpoint, "#b9d0ee", "box", "[", "]"},           {port::kTaskVector, "#e6d5f2", "ellipse", "([", "])"},
    {port::kFeatures, "#f3eed3", "parallelogram", "[/", "/]"}, {port::kHead, "#f8dcc4", "house", "[/", "\\]"},
    {port::kMetrics, "#f5d0d0", "hexagon", "{{", "}}"},        {port::kReport, "#e4e4e4", "note", "[[", "]]"},
};

const Look& look_of(const std::string& output) {
    static constexpr Look kOther{"", "#ffffff", "box", "[", "]"};
    for (const Look& look : kLooks)
        if (look.output == output) return look;
    return kOther;
}

/// The box that a node goes to.
std::string key_of(const GraphNode& node) {
    if (node.implied) {
        const std::string by = node.id.substr(0, node.id.find(':'));
        return by == node.type->name ? by : fmt::format("{}: {}", by, node.type->name);
    }
    if (node.axes.empty()) return node.id;
    std::vector<std::string> axes;
    for (const auto& [axis, value] : node.axes) axes.push_back(axis);
    return fmt::format("{}[{}]", node.id.substr(0, node.id.find('[')), fmt::join(axes, ","));
}

std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        out += c;
    }
    return out + '"';
}

std::string for_mermaid(const std::string& text) {
    std::string out;
    for (const char c : text) {
        switch (c) {
            case '"': out += "#quot;"; break;
            case '#': out += "#35;"; break;
            case '<': out += "#lt;"; break;
            case '>': out += "#gt;"; break;
            case '&': out += "#amp;"; break;
            default: out += c;
        }
    }
    return out;
}

/// What stands below the name; empty where the name says it.
std::string second_line(const Box& box) {
    return box.name == box.use || box.name.ends_with(": " + box.use) ? "" : box.use;
}

std::string count_of(const Box& box) {
    return box.count == 1 ? "" : fmt::format(" × {}", box.count);
}

}  // namespace

Diagram diagram_of(const Graph& graph, bool collapsed) {
    Diagram out{.name = graph.name};
    std::map<std::string, size_t> boxes;
    std::vector<size_t> box_of(graph.nodes.size());
    std::set<std::tuple<size_t, size_t, std::string>> seen;
    for (size_t n = 0; n < graph.nodes.size(); ++n) {
        const GraphNode& node = graph.nodes[n];
        const std::string name = collapsed ? key_of(node) : node.id;
        const auto [found, added] = boxes.emplace(name, out.boxes.size());
        box_of[n] = found->second;
        if (added) {
            out.boxes.push_back({name, node.use(), node.output(), node.implied, 1});
        } else {
            Box& box = out.boxes[found->second];
            ++box.count;
            if (box.use != node.use()) box.use = "several";
        }
    }
    for (size_t n = 0; n < graph.nodes.size(); ++n)
        for (const auto& [port, sources] : graph.nodes[n].inputs)
            for (const size_t source : sources)
                if (seen.emplace(box_of[source], box_of[n], port).second)
                    out.edges.push_back({box_of[source], box_of[n], port});
    return out;
}

std::string as_dot(const Diagram& diagram) {
    std::string out = fmt::format(
        "digraph {} {{\n  rankdir=LR;\n  node [style=filled, fontname=\"Helvetica\"];\n  edge [fontname=\"Helvetica\", "
        "fontsize=10];\n",
        quoted(diagram.name));
    for (size_t i = 0; i < diagram.boxes.size(); ++i) {
        const Box& box = diagram.boxes[i];
        const Look& look = look_of(box.output);
        // The line break is Graphviz's own, so it isn't escaped.
        std::string label = quoted(box.name + count_of(box));
        if (const std::string use = quoted(second_line(box)); use.size() > 2)
            label.insert(label.size() - 1, "\\n" + use.substr(1, use.size() - 2));
        out += fmt::format("  n{} [label={}, shape={}, fillcolor=\"{}\"{}];\n", i, label, look.dot_shape, look.colour,
                           box.implied ? ", style=\"filled,dashed\"" : "");
    }
    for (const Diagram::Edge& edge : diagram.edges)
        out += fmt::format("  n{} -> n{} [label={}];\n", edge.from, edge.to, quoted(edge.port));
    return out + "}\n";
}

std::string as_mermaid(const Diagram& diagram) {
    std::string out = "flowchart LR\n";
    std::map<std::string, std::string> classes;  // output → boxes
    std::string implied;
    for (size_t i = 0; i < diagram.boxes.size(); ++i) {
        const Box& box = diagram.boxes[i];
        const Look& look = look_of(box.output);
        const std::string use = for_mermaid(second_line(box));
        out += fmt::format("  n{}{}\"{}{}{}{}\"{}\n", i, look.mermaid_open, for_mermaid(box.name), count_of(box),
                           use.empty() ? "" : "<br/>", use, look.mermaid_close);
        std::string& list = classes[box.output];
        list += fmt::format("{}n{}", list.empty() ? "" : ",", i);
        if (box.implied) implied += fmt::format("{}n{}", implied.empty() ? "" : ",", i);
    }
    for (const Diagram::Edge& edge : diagram.edges)
        out += fmt::format("  n{} -->|{}| n{}\n", edge.from, edge.port, edge.to);
    for (const auto& [output, list] : classes)
        out += fmt::format("  classDef {0} fill:{1},stroke:#555,color:#111\n  class {2} {0}\n", output,
                           look_of(output).colour, list);
    if (!implied.empty()) out += fmt::format("  classDef implied stroke-dasharray:4 3\n  class {} implied\n", implied);
    return out;
}

Json as_json(const Diagram& diagram) {
    Json boxes = Json::array(), edges = Json::array();
    for (const Box& box : diagram.boxes)
        boxes.push_back({{"id", box.name},
                         {"use", box.use},
                         {"output", box.output},
                         {"implied", box.implied},
                         {"count", box.count}});
    for (const Diagram::Edge& edge : diagram.edges)
        edges.push_back(
            {{"from", diagram.boxes[edge.from].name}, {"to", diagram.boxes[edge.to].name}, {"port", edge.port}});
    return {{"format", "biophony-graph/0"}, {"name", diagram.name}, {"nodes", boxes}, {"edges", edges}};
}

}  // namespace biophony
