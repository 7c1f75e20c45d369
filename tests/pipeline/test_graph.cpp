// The checker, on files: good/ has pipelines with the graph they stand for, bad/ has pipelines with what is said of
// them. A file NAME.args beside has options of the command line, one a line, given from the folder elsewhere/. After an
// intended change run with UPDATE=1 and read the difference.
#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <random>

#include "base/files.hpp"
#include "fake_types.hpp"
#include "pipeline/graph.hpp"

using namespace biophony;

namespace {

const fs::path kFolder = fs::path(BPH_SOURCE_DIR) / "tests" / "pipeline";

std::string without_folder(std::string text) {
    const std::string folder = kFolder.string() + "/";
    for (size_t at = 0; (at = text.find(folder, at)) != std::string::npos;) text.erase(at, folder.size());
    return text;
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> out;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);)
        if (!line.empty()) out.push_back(line);
    return out;
}

Overrides overrides_beside(const fs::path& file) {
    std::vector<Diagnostic> problems;
    Overrides out{.working_folder = kFolder / "elsewhere"};
    const fs::path args = fs::path(file).replace_extension(".args");
    if (!fs::exists(args)) return out;
    for (const std::string& line : lines_of(read_file(args))) {
        const std::string value = line.substr(line.find(' ') + 1);
        if (line.starts_with("--set "))
            out.set.push_back(parse_set(value));
        else
            out.params_files.push_back(JsonText::parse(read_file(out.working_folder / value), value, problems));
    }
    return out;
}

struct Checked {
    Graph graph;
    std::vector<Diagnostic> problems;
};

Checked check(const std::string& text, const fs::path& file, const Overrides& overrides = {}) {
    static const NodeTypes types = fake::types();
    static const Registry registry = fake::registry();
    Checked out;
    out.graph = make_graph(text, file, overrides, types, registry, out.problems);
    return out;
}

std::string told(const std::vector<Diagnostic>& problems) {
    std::string out;
    for (const Diagnostic& problem : problems) {
        std::string line = problem.text();
        const fs::path file = problem.where.file;
        if (problem.where.line > 0 && file.extension() == ".json" && file.parent_path().filename() != "parts")
            line = line.substr(problem.where.file.size() + 1);  // of the pipeline itself: "3:7: …"
        if (problem.code != Code::kInvalid) line += fmt::format(" [status {}]", static_cast<int>(problem.code));
        out += line + "\n";
    }
    return without_folder(out);
}

std::string told(const Graph& graph) {
    std::string out;
    for (const GraphNode& node : graph.nodes) {
        out +=
            fmt::format("{}{} = {} seed {} {}\n", node.id, node.implied ? " (implied)" : "",
                        node.item != nullptr ? node.item->name() : node.type->name, node.seed, canonical(node.params));
        for (const auto& [port, sources] : node.inputs) {
            out += fmt::format("    {}:", port);
            for (const size_t source : sources) out += " " + graph.nodes.at(source).id;
            out += "\n";
        }
    }
    for (const GraphOutput& output : graph.outputs) {
        out += fmt::format("output {}{}:", output.name, output.many ? "/" : "");
        for (const size_t n : output.nodes) out += " " + graph.nodes.at(n).id;
        out += "\n";
    }
    return without_folder(out);
}

/// The nodes in an order that doesn't depend on the text's.
std::vector<std::string> by_id(const Graph& graph) {
    std::vector<std::string> out;
    for (const GraphNode& node : graph.nodes) {
        std::string line = fmt::format("{} {} {}", node.id, node.seed, canonical(node.params));
        for (const auto& [port, sources] : node.inputs)
            for (const size_t source : sources) line += " " + port + ":" + graph.nodes.at(source).id;
        out.push_back(line);
    }
    for (const GraphOutput& output : graph.outputs) {
        std::string line = "output " + output.name + (output.many ? "/" : "");
        for (const size_t n : output.nodes) line += " " + graph.nodes.at(n).id;
        out.push_back(line);
    }
    std::sort(out.begin(), out.end());
    return out;
}

std::vector<fs::path> pipelines(const char* folder) {
    std::vector<fs::path> out;
    for (const auto& entry : fs::directory_iterator(kFolder / folder))
        if (entry.path().extension() == ".json") out.push_back(entry.path());
    std::sort(out.begin(), out.end());
    return out;
}

void compare(const fs::path& file, const std::string& found) {
    const fs::path expected = fs::path(file).replace_extension(".expected");
    if (std::getenv("UPDATE") != nullptr) {
        write_file_atomically(expected, found);
    } else {
        REQUIRE(fs::exists(expected));
        CHECK(lines_of(found) == lines_of(read_file(expected)));
    }
}

}  // namespace

TEST_CASE("good pipelines stand for the expected graphs") {
    REQUIRE(pipelines("good").size() >= 4);
    for (const fs::path& file : pipelines("good")) SECTION(file.stem().string()) {
            const Checked checked = check(read_file(file), file, overrides_beside(file));
            CHECK(told(checked.problems) == "");
            REQUIRE(!checked.graph.nodes.empty());
            compare(file, told(checked.graph));
            for (size_t n = 0; n < checked.graph.nodes.size(); ++n)
                for (const auto& [port, sources] : checked.graph.nodes[n].inputs)
                    for (const size_t source : sources) CHECK(source < n);
        }
}

TEST_CASE("the effective pipeline says the same from any folder, without the overrides") {
    for (const fs::path& file : pipelines("good")) SECTION(file.stem().string()) {
            const Checked first = check(read_file(file), file, overrides_beside(file));
            const Checked again = check(first.graph.effective.dump(2), "/somewhere/else/effective.json");
            CHECK(told(again.problems) == "");
            CHECK(by_id(again.graph) == by_id(first.graph));
            CHECK(again.graph.effective == first.graph.effective);
        }
}

TEST_CASE("bad pipelines are told all that is wrong, by place") {
    REQUIRE(pipelines("bad").size() >= 20);
    for (const fs::path& file : pipelines("bad")) SECTION(file.stem().string()) {
            const Checked checked = check(read_file(file), file, overrides_beside(file));
            CHECK(!checked.problems.empty());
            compare(file, told(checked.problems));
        }
}

TEST_CASE("the order of the text means nothing but ties") {
    const fs::path file = kFolder / "good" / "canonical.json";
    const Json pipeline = Json::parse(read_file(file));
    const Checked first = check(read_file(file), file);
    std::mt19937 random(1);
    for (int i = 0; i < 5; ++i) {
        std::vector<std::string> keys;
        for (const auto& [key, value] : pipeline["nodes"].items()) keys.push_back(key);
        std::shuffle(keys.begin(), keys.end(), random);
        nlohmann::ordered_json shuffled = nlohmann::ordered_json::parse(read_file(file));
        shuffled["nodes"] = nlohmann::ordered_json::object();
        for (const std::string& key : keys) shuffled["nodes"][key] = pipeline["nodes"][key];
        const Checked checked = check(shuffled.dump(), file);
        CHECK(told(checked.problems) == "");
        CHECK(by_id(checked.graph) == by_id(first.graph));
    }
}

TEST_CASE("graphs are asked for nodes by name and for users") {
    const fs::path file = kFolder / "good" / "canonical.json";
    const Graph graph = check(read_file(file), file).graph;
    CHECK(graph.index_of("nobody") == graph.nodes.size());
    const size_t vector = graph.index_of("vector[bird]");
    REQUIRE(vector < graph.nodes.size());
    std::vector<std::string> users;
    for (const size_t user : graph.users_of(vector)) users.push_back(graph.nodes[user].id);
    CHECK(users == std::vector<std::string>{"merged[merger:average]", "merged[merger:ties.global]"});
    CHECK(graph.nodes[vector].axes == std::vector<std::pair<std::string, std::string>>{{"taxon", "bird"}});
    CHECK(graph.nodes[vector].where.line == 14);
    CHECK(graph.name == "three taxa, no shared recordings");
}

TEST_CASE("spoiled texts are refused, never more") {
    const fs::path file = kFolder / "good" / "canonical.json";
    const std::string text = read_file(file);
    const size_t end = text.find_last_of('}');
    for (size_t length = 0; length <= end; length += 3) CHECK(!check(text.substr(0, length), file).problems.empty());
    // Words in each other's places: whatever comes out, it is a graph or a list of problems.
    std::vector<std::pair<size_t, size_t>> words;
    for (size_t at = 0; (at = text.find('"', at)) != std::string::npos;) {
        const size_t close = text.find('"', at + 1);
        words.emplace_back(at, close + 1 - at);
        at = close + 1;
    }
    std::mt19937 random(2);
    const std::vector<std::string> odd = {"null",
                                          "[]",
                                          "{}",
                                          "7",
                                          "\"\"",
                                          "\"*\"",
                                          "\"[*]\"",
                                          "-1",
                                          "1e9",
                                          "\"{\"",
                                          "[0]",
                                          "\"a[b\"",
                                          "{\"param\": \"\"}",
                                          "\"/~1~\""};
    size_t refused = 0;
    for (int i = 0; i < 400; ++i) {
        const auto [at, length] = words[random() % words.size()];
        const auto [from, count] = words[random() % words.size()];
        std::string spoiled = text;
        spoiled.replace(at, length, i % 2 == 0 ? text.substr(from, count) : odd[random() % odd.size()]);
        const Checked checked = check(spoiled, file);
        refused += checked.problems.empty() ? 0 : 1;
        for (const Diagnostic& problem : checked.problems) {
            CHECK(!problem.message.empty());
            CHECK(problem.where.line > 0);
        }
        if (checked.problems.empty()) CHECK(!checked.graph.nodes.empty());
    }
    CHECK(refused > 200);
}

TEST_CASE("no depth of nesting uses up the stack") {
    for (const std::string& open : {std::string(1'000'000, '['), std::string(1'000'000, '{')})
        CHECK(told(check(R"({"biophony": 1, "notes": )" + open, "deep.json").problems).find("nested more than") !=
              std::string::npos);
}

TEST_CASE("params that grow without end are refused") {
    std::string params = R"("p0": "x")";
    for (int i = 1; i < 40; ++i)
        params += fmt::format(R"(, "p{0}": [{{"param": "p{1}"}}, {{"param": "p{1}"}}])", i, i - 1);
    const Checked grown = check(
        R"({"biophony": 1, "params": {)" + params + R"(}, "nodes": {"base": {"use": "encoder:beats"}}})", "grown.json");
    REQUIRE(!grown.problems.empty());
    CHECK(told(grown.problems).find("too large") != std::string::npos);
    // One value inside of the next, deeper than a text may be.
    params = R"("p0": "x")";
    for (int i = 1; i < 1000; ++i) params += fmt::format(R"(, "p{}": [{{"param": "p{}"}}])", i, i - 1);
    const Checked deep = check(
        R"({"biophony": 1, "params": {)" + params + R"(}, "nodes": {"base": {"use": "encoder:beats"}}})", "deep.json");
    REQUIRE(!deep.problems.empty());
    CHECK(told(deep.problems).find("too deeply nested") != std::string::npos);
}

TEST_CASE("a product of axes that nobody could run is refused") {
    std::string axes, name;
    for (int a = 0; a < 3; ++a) {
        axes += fmt::format("{}\"a{}\": [", a == 0 ? "" : ", ", a);
        for (int v = 0; v < 100; ++v) axes += fmt::format("{}{}", v == 0 ? "" : ", ", v);
        axes += "]";
        name += fmt::format("{}a{}", a == 0 ? "" : ",", a);
    }
    const Checked checked = check(
        R"({"biophony": 1, "axes": {)" + axes + R"(}, "nodes": {"base[)" + name + R"(]": {"use": "encoder:beats"}}})",
        "product.json");
    REQUIRE(checked.problems.size() == 1);
    CHECK(checked.problems[0].message.text == "stands for more than 10000 nodes, expected fewer");
}

namespace {

std::string ten_thousand_values() {
    std::string out = "0";
    for (int v = 1; v < 10'000; ++v) out += fmt::format(", {}", v);
    return out;
}

/// What is said of a text, in how many seconds.
std::pair<std::string, double> told_in(const std::string& text) {
    const auto begin = std::chrono::steady_clock::now();
    const std::string out = told(check(text, kFolder / "good" / "generated.json").problems);
    return {out, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()};
}

}  // namespace

TEST_CASE("what nobody could run is refused before it fills the memory or the evening") {
    const std::string axes = R"({"biophony": 1, "axes": {"i": [)" + ten_thousand_values() + R"(]}, )";
    const std::string base =
        R"("base": {"use": "encoder:beats"}, "clips": {"use": "dataset:table", "with": {"file": "data/clips.csv"}})";
    std::string nodes;
    SECTION("connections") {
        nodes = base + R"(, "e[i]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips"}},
            "v[i]": {"use": "task-vector", "in": {"base": "base", "model": "e[i]"}},
            "c[i]": {"use": "compose", "in": {"base": "base", "vectors": "v[*]"}, "with": {"stages": [{"use": "merger:average"}]}}})";
        const auto [said, seconds] = told_in(axes + R"("nodes": {)" + nodes + "}");
        CHECK(said.find("more than 2000000 connections") != std::string::npos);
        CHECK(seconds < 30);
    }
    SECTION("values of params") {
        std::string params = R"("p0": ["x", "x", "x", "x", "x", "x", "x", "x", "x", "x"])";
        for (int i = 1; i < 11; ++i)
            params += fmt::format(R"(, "p{0}": [{{"param": "p{1}"}}, {{"param": "p{1}"}}])", i, i - 1);
        nodes =
            base +
            R"(, "e[i]": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips"}, "with": {"note": {"param": "p10"}}}})";
        const auto [said, seconds] = told_in(axes + R"("params": {)" + params + R"(}, "nodes": {)" + nodes + "}");
        CHECK(said.find("more than 4000000 values") != std::string::npos);
        CHECK(seconds < 30);
    }
    SECTION("nodes") {
        nodes = base;
        for (int i = 0; i < 11; ++i)
            nodes +=
                fmt::format(R"(, "e{}[i]": {{"use": "fine-tune", "in": {{"encoder": "base", "data": "clips"}}}})", i);
        const auto [said, seconds] = told_in(axes + R"("nodes": {)" + nodes + "}}");
        CHECK(said.find("more than 100000 nodes") != std::string::npos);
        CHECK(seconds < 30);
    }
    SECTION("params of a pipeline that many nodes take, many times") {
        std::string list = "0", takes = R"({"param": "p"})";
        for (int i = 1; i < 1000; ++i) list += ", 0";
        for (int i = 1; i < 1000; ++i) takes += R"(, {"param": "p"})";
        const auto [said, seconds] =
            told_in(R"({"biophony": 1, "pipelines": {"s": {"params": {"p": [)" + list + R"(]},
            "nodes": {"a": {"use": "encoder:beats", "with": {"depth": [)" +
                    takes + R"(]}}}, "outputs": {"a": "a"}}}, "nodes": {"one": {"use": "pipeline:s"}}})");
        CHECK(said.find("with its params put in, this is too large") != std::string::npos);
        CHECK(seconds < 30);
    }
    SECTION("text") {
        const auto [said, seconds] = told_in(R"({"biophony": 1, "notes": ")" + std::string(17 << 20, 'x') + "\"}");
        CHECK(said.find("found 17 MiB") != std::string::npos);
    }
    SECTION("exclusions") {
        std::string list = R"({"i": 0})";
        for (int i = 1; i < 1001; ++i) list += R"(, {"i": 0})";
        const auto [said, seconds] = told_in(axes + R"("exclude": [)" + list + R"(], "nodes": {)" + base + "}}");
        CHECK(said.find("found 1001 exclusions, expected at most 1000") != std::string::npos);
    }
}

TEST_CASE("no more problems are collected than anybody reads, and a mistake in many nodes is told once") {
    std::string nodes = R"("base": {"use": "encoder:beats"})";
    for (int i = 0; i < 3000; ++i) nodes += fmt::format(R"(, "e{}": {{"use": "fine-tun"}})", i);
    CHECK(check(R"({"biophony": 1, "nodes": {)" + nodes + "}}", "many.json").problems.size() == 1000);
    const Checked once = check(R"({"biophony": 1, "axes": {"i": [)" + ten_thousand_values() +
                                   R"(]}, "nodes": {"base[i]": {"use": "encoder:beats", "with": {"dpeth": "{i}"}}},
                                   "outputs": {"all": "base[*]"}})",
                               "once.json");
    CHECK(told(once.problems) != "");
    CHECK(once.problems.size() == 1);
}

TEST_CASE("ten thousand nodes are checked in seconds at most") {
    // About one on an idle machine; quadratic work would take minutes.
    std::string nodes =
        R"("base": {"use": "encoder:beats"}, "clips": {"use": "dataset:table", "with": {"file": "data/clips.csv"}})";
    for (int i = 0; i < 10'000; ++i)
        nodes += fmt::format(R"(, "e{}": {{"use": "fine-tune", "in": {{"encoder": "base", "data": "clips"}}}})", i);
    const auto [said, seconds] = told_in(R"({"biophony": 1, "nodes": {)" + nodes + "}}");
    CHECK(said == "");
    CHECK(seconds < 30);
}

TEST_CASE("values of a --params file are told with their place, and its paths are relative to it") {
    std::vector<Diagnostic> problems;
    const std::string text =
        "{\n  \"file\": \"clips.csv\",\n  \"epochs\": -1,\n  \"axes\": { \"taxon\": [\"bird\", \"a,b\"] }\n}";
    Overrides overrides{.working_folder = kFolder};
    overrides.params_files.push_back(JsonText::parse(text, "elsewhere/mine.json", problems));
    const std::string pipeline =
        R"({"biophony": 1, "params": {"file": "x", "epochs": 1}, "axes": {"taxon": ["frog"]}, "nodes": {
        "base": {"use": "encoder:beats"}, "clips[taxon]": {"use": "dataset:table", "with": {"file": {"param": "file"}}},
        "e": {"use": "fine-tune", "in": {"encoder": "base", "data": "clips[*]"}, "with": {"epochs": {"param": "epochs"}}}}})";
    std::vector<std::string> found;
    for (const Diagnostic& problem : check(pipeline, "p.json", overrides).problems) found.push_back(problem.text());
    REQUIRE(found.size() == 2);
    CHECK(found[0] ==
          "elsewhere/mine.json:3:3: /epochs: found the number -1, expected a whole number from 0 to 10000 (used by "
          "/nodes/e/with/epochs)");
    CHECK(found[1].starts_with("elsewhere/mine.json:4:31: /axes/taxon/1: found the string \"a,b\""));
    problems.clear();
    overrides.params_files = {JsonText::parse(R"({"file": "clips.csv"})", "elsewhere/mine.json", problems)};
    const Checked good = check(pipeline, "/nowhere/p.json", overrides);
    CHECK(told(good.problems) == "");
    CHECK(good.graph.nodes.at(good.graph.index_of("clips[frog]")).params.at("file") ==
          (kFolder / "elsewhere" / "clips.csv").string());
}

TEST_CASE("--set values are JSON where they can be, else text") {
    using Pair = std::pair<std::string, Json>;
    CHECK(parse_set("params.seed=7") == Pair{"params.seed", 7});
    CHECK(parse_set("a.b=[\"x\", 1]") == Pair{"a.b", Json{"x", 1}});
    CHECK(parse_set("a.b=bird") == Pair{"a.b", "bird"});
    CHECK(parse_set("a.b=\"7\"") == Pair{"a.b", "7"});
    CHECK(parse_set("a.b=x=y") == Pair{"a.b", "x=y"});
    CHECK(parse_set("a.b=") == Pair{"a.b", ""});
    CHECK(parse_set("a.b={taxon}") == Pair{"a.b", "{taxon}"});
    CHECK(parse_set("a.b=007") == Pair{"a.b", "007"});
    for (const char* bad : {"", "seed", "=7", "a.b={\"x\": 1, \"x\": 2}", "a.b=\xff", "a.\xff=1"}) {
        INFO(bad);
        try {
            parse_set(bad);
            FAIL("was accepted");
        } catch (const Error& error) {
            CHECK(error.code() == Code::kInvalid);
        }
    }
}

TEST_CASE("problems are sorted by place, and told once") {
    std::vector<Diagnostic> problems = {{.where = {.file = "b", .line = 1, .column = 1}, .message = "x"},
                                        {.where = {.file = "a", .line = 2, .column = 1}, .message = "x"},
                                        {.where = {.file = "a", .line = 1, .column = 9}, .message = "x"},
                                        {.where = {.file = "a", .line = 1, .column = 9}, .message = "x"},
                                        {.where = {.file = "a", .line = 1, .column = 9}, .message = "w"}};
    sort_problems(problems);
    std::string text;
    for (const Diagnostic& problem : problems) text += problem.text() + "\n";
    CHECK(text == "a:1:9: w\na:1:9: x\na:2:1: x\nb:1:1: x\n");
}
