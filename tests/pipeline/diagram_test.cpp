#include "pipeline/diagram.hpp"

#include <catch2/catch.hpp>
#include <regex>

#include "fake_types.hpp"

using namespace biophony;

namespace {

Graph graph_of(const char* bird = "bird") {
    static const NodeTypes types = fake::types();  // the graph points into it
    static const Registry registry = fake::registry();
    std::vector<Diagnostic> problems;
    Json pipeline = Json::parse(R"({"biophony": 1, "name": "a \"name\"", "axes": {"taxon": ["bird", "frog"]}, "nodes": {
        "base":          {"use": "encoder:beats"},
        "clips[taxon]":  {"use": "dataset:folder", "with": {"folder": "/"}},
        "expert[taxon]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[taxon]"}},
        "model":         {"use": "head", "in": {"encoder": "base", "data": ["clips[*]"], "experts": ["expert[*]"]}},
        "score":         {"use": "evaluate", "in": {"model": "model", "data": ["clips[*]"]}},
        "table":         {"use": "table", "in": {"scores": ["score"], "base": "base"}}}})");
    pipeline["axes"]["taxon"][0] = bird;
    Graph graph = make_graph(pipeline.dump(), "/p.json", {}, types, registry, problems);
    for (const Diagnostic& problem : problems) UNSCOPED_INFO(problem.text());
    REQUIRE(problems.empty());
    return graph;
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> out;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) out.push_back(line);
    return out;
}

/// Reads our own subset of the language: boxes with attributes, edges with a label.
void check_dot(const std::string& text, size_t boxes, size_t edges) {
    const std::string string = R"re("(?:[^"\\]|\\.)*")re", value = "(?:" + string + "|\\w+)";
    const std::string list = "\\[(?:\\w+=" + value + ")(?:, \\w+=" + value + ")*\\];";
    const std::regex box("  n(\\d+) " + list), edge("  n(\\d+) -> n(\\d+) " + list),
        other("  (?:rankdir=LR;|(?:node|edge) " + list + ")"), head("digraph " + string + " \\{");
    const std::vector<std::string> lines = lines_of(text);
    REQUIRE(lines.size() > 2);
    CHECK(std::regex_match(lines.front(), head));
    CHECK(lines.back() == "}");
    size_t found_boxes = 0, found_edges = 0;
    std::smatch match;
    for (size_t i = 1; i + 1 < lines.size(); ++i) {
        INFO(lines[i]);
        if (std::regex_match(lines[i], match, edge)) {
            ++found_edges;
            CHECK(std::stoul(match[1]) < boxes);
            CHECK(std::stoul(match[2]) < boxes);
        } else if (std::regex_match(lines[i], match, box)) {
            CHECK(std::stoul(match[1]) == found_boxes++);
        } else {
            CHECK(std::regex_match(lines[i], other));
        }
    }
    CHECK(found_boxes == boxes);
    CHECK(found_edges == edges);
}

}  // namespace

TEST_CASE("every node is a box, every input an edge") {
    const Diagram diagram = diagram_of(graph_of(), false);
    // The table implies a head and a score of its base.
    REQUIRE(diagram.boxes.size() == 10);
    // expert 2 × 2, model 5, score 3, implied head 5, its score 3, table 3
    CHECK(diagram.edges.size() == 23);
    check_dot(as_dot(diagram), 10, 23);
    const std::string dot = as_dot(diagram);
    CHECK_THAT(dot, Catch::Contains(R"(digraph "a \"name\"")") &&
                        Catch::Contains(R"(label="clips[bird]\ndataset:folder", shape=cylinder)") &&
                        Catch::Contains(
                            R"(label="table:base\nhead", shape=house, fillcolor="#f8dcc4", style="filled,dashed")"));
    const Json json = as_json(diagram);
    CHECK(json.at("format") == "biophony-graph/0");
    CHECK(
        json.at("nodes").at(1) ==
        Json{
            {"id", "clips[bird]"}, {"use", "dataset:folder"}, {"output", "dataset"}, {"implied", false}, {"count", 1}});
    CHECK(std::find(json.at("edges").begin(), json.at("edges").end(),
                    Json{{"from", "clips[frog]"}, {"to", "expert[frog]"}, {"port", "data"}}) != json.at("edges").end());
}

TEST_CASE("collapsed, a key of the text is one box with its number") {
    const Diagram diagram = diagram_of(graph_of(), true);
    REQUIRE(diagram.boxes.size() == 8);
    CHECK(diagram.boxes[1].name == "clips[taxon]");
    CHECK(diagram.boxes[1].count == 2);
    // expert 2, model 3, score 2, implied head 3, its score 2, table 2 (both scores are other boxes: 3)
    CHECK(diagram.edges.size() == 15);
    check_dot(as_dot(diagram), 8, 15);
    CHECK_THAT(as_dot(diagram), Catch::Contains("clips[taxon] × 2\\ndataset:folder"));
    CHECK_THAT(as_dot(diagram), Catch::Contains("\"table: head\""));
}

TEST_CASE("names that the languages would misread are escaped") {
    const Graph graph = graph_of("a\"b\\<i>#");
    check_dot(as_dot(diagram_of(graph, false)), 10, 23);
    CHECK_THAT(as_dot(diagram_of(graph, false)), Catch::Contains(R"(clips[a\"b\\<i>#]\ndataset)"));
    const std::string mermaid = as_mermaid(diagram_of(graph, false));
    CHECK_THAT(mermaid, Catch::Contains(R"([("clips[a#quot;b\#lt;i#gt;#35;]<br/>dataset:folder")])"));
    // Quotes stand only around labels.
    const std::regex line(
        R"re(  (?:n\d+[\[({/]+"[^"]*"[\])}/\\]+|n\d+ -->\|\w+\| n\d+|classDef \w+ [\w#:,\- ]+|class n\d+(?:,n\d+)* \w+))re");
    const std::vector<std::string> lines = lines_of(mermaid);
    CHECK(lines.front() == "flowchart LR");
    for (size_t i = 1; i < lines.size(); ++i) {
        INFO(lines[i]);
        CHECK(std::regex_match(lines[i], line));
    }
}
