// The JSON Schema for editors takes what the checker takes.
#include "pipeline/editor_schema.hpp"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/schema.hpp"
#include "fake_types.hpp"

namespace {

using namespace biophony;
namespace fs = std::filesystem;

Json read(const fs::path& file) {
    std::ifstream in(file);
    std::stringstream text;
    text << in.rdbuf();
    return Json::parse(text.str());
}

TEST_CASE("pipelines that the checker takes are valid by the editor's schema") {
    const NodeTypes types = fake::types();
    const Registry registry = fake::registry();
    const Json schema = pipeline_schema(types, registry);
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator(BPH_SOURCE_DIR "/tests/pipeline/good")) {
        if (entry.path().extension() != ".json") continue;
        INFO(entry.path());
        const std::vector<Diagnostic> problems = problems_by_schema(schema, read(entry.path()));
        CHECK((problems.empty() ? std::string() : problems[0].text()) == "");
        ++count;
    }
    CHECK(count > 3);
}

TEST_CASE("what the editor's schema refuses") {
    const Json schema = pipeline_schema(fake::types(), fake::registry());
    const Json good = read(BPH_SOURCE_DIR "/tests/pipeline/good/canonical.json");
    REQUIRE(problems_by_schema(schema, good).empty());
    const auto refuses = [&](const char* pointer, const Json& value) {
        Json bad = good;
        bad[Json::json_pointer(pointer)] = value;
        INFO(pointer << " = " << value.dump());
        CHECK_FALSE(problems_by_schema(schema, bad).empty());
    };
    refuses("/nods", 1);
    refuses("/biophony", 2);
    refuses("/axes/taxon", "bird");
    refuses("/nodes/joint/use", "fine-tun");
    refuses("/nodes/joint/wiht", Json::object());
    refuses("/nodes/joint/in/encodr", "base");
    refuses("/nodes/joint/in/encoder", Json::array({"base"}));
    refuses("/nodes/joint/with/recipee", "small");
    refuses("/nodes/joint/seed", -1);
    refuses("/nodes/merged[method]/with/stages", Json::array({{{"use", "merger:averag"}}}));
    refuses("/nodes/merged[method]/with/stages",
            Json::array({{{"use", "merger:average"}, {"with", {{"nothing", 1}}}}}));
    refuses("/outputs", {{"a b", "table"}});
    refuses("/exclude", {{{"taxon", Json::object()}}});
    refuses("/pipelines", {{"p", {{"nodes", Json::object()}}}});
}

}  // namespace
