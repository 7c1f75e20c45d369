#include <catch2/catch.hpp>

#include "base/error.hpp"
#include "report/table.hpp"

using namespace biophony;

namespace {

/// A model's predictions on two groups of two labels each, one clip a recording: `right` clips per group are right over
/// the union, `within` more are right within the group alone.
Predictions predictions(const std::string& row, const std::string& head, int n, int right, int within) {
    Predictions p;
    p.row = row;
    p.head = head;
    p.split = "test";
    p.labels = {"a", "b", "c", "d"};
    p.model_groups = {"frog", "bird"};
    p.groups = {{"frog", {0, 1}}, {"bird", {2, 3}}};
    for (int g = 0; g < 2; ++g)
        for (int i = 0; i < n; ++i) {
            const int truth = 2 * g + i % 2, other = 2 * g + (i + 1) % 2, elsewhere = 2 * (1 - g);
            ClipPrediction clip{g, "r" + std::to_string(i), "f" + std::to_string(i), 0, 1, truth};
            clip.predicted = i < right ? truth : i < right + within ? elsewhere : other;
            clip.predicted_within = i < right + within ? truth : other;
            p.clips.push_back(clip);
        }
    return p;
}

TableRow row(Predictions p, bool pooled = false) {
    TableRow out{p.row, p.head, pooled, {}};
    out.parts.push_back(std::move(p));
    return out;
}

const Json& find(const Table& table, const std::string& model, const std::string& head) {
    for (const Json& r : table.json.at("rows"))
        if (r.at("model") == model && r.at("head") == head) return r;
    throw std::runtime_error("no row " + model);
}

}  // namespace

TEST_CASE("figures, gaps and gains of the table") {
    Predictions specialist = predictions("specialists", "own", 10, 9, 0);
    specialist.model_groups = {"frog"};
    specialist.clips.resize(10);
    specialist.groups = {{"frog", {0, 1}}};
    const Table table =
        make_table({row(predictions("average", "ridge", 10, 6, 2)), row(predictions("joint", "ridge", 10, 8, 1), true),
                    row(predictions("joint", "own", 10, 9, 0), true), row(predictions("base", "ridge", 10, 5, 0)),
                    row(specialist)},
                   {"joint", "base"}, 500, 1);
    const Json& average = find(table, "average", "ridge");
    CHECK(average.at("union_accuracy") == Approx(0.6));
    CHECK(average.at("groups").at("frog").at("within_accuracy") == Approx(0.8));
    CHECK(average.at("gap_union").at("mean") == Approx(0.2));
    CHECK(average.at("gap_within").at("mean") == Approx(0.1));
    CHECK(average.at("gain_on_base").at("mean") == Approx(0.1));
    CHECK(average.at("gap_union").at("low") <= 0.2);
    CHECK(average.at("gap_union").at("high") >= 0.2);
    CHECK(average.at("gap_union").at("clips") == 20);
    CHECK(find(table, "joint", "ridge").at("gap_union").is_null());
    CHECK(find(table, "base", "ridge").at("gain_on_base").is_null());
    CHECK(find(table, "base", "ridge").at("gap_union").at("mean") == Approx(0.3));
    const Json& specialists = find(table, "specialists", "own");
    CHECK(specialists.at("union_accuracy").is_null());
    CHECK(specialists.at("groups").at("bird").at("within_accuracy").is_null());
    CHECK(specialists.at("gap_within").at("mean") == Approx(0.0));
    CHECK(table.json.at("system_gap").at("row") == "average");
    CHECK(table.json.at("system_gap").at("gap").at("mean") == Approx(0.3));
    CHECK(table.cells.front()[0] == "joint");
    CHECK(table.cells.back()[0] == "base");
    for (const auto& cells : table.cells) CHECK(cells.size() == table.header.size());
}

TEST_CASE("a table without references has no gaps") {
    const Table table = make_table({row(predictions("only", "ridge", 6, 3, 0))}, {}, 200, 1);
    CHECK(find(table, "only", "ridge").at("gap_union").is_null());
    CHECK(table.json.at("system_gap").is_null());
}

TEST_CASE("all forms of the table carry every row, and escape what they must") {
    const Table table = make_table({row(predictions("a, \"b\" | c", "ridge", 4, 2, 0))}, {}, 200, 1);
    CHECK(table.to_csv().find("\"a, \"\"b\"\" | c\",ridge") != std::string::npos);
    CHECK(table.to_markdown().find("a, \"b\" \\| c |") != std::string::npos);
    CHECK(table.to_text().find("a, \"b\" | c") != std::string::npos);
}

TEST_CASE("labels nobody was trained on are told") {
    Predictions p = predictions("x", "ridge", 4, 2, 0);
    p.unseen["rare"] = 3;
    const Table table = make_table({row(p)}, {}, 200, 1);
    CHECK(table.to_text().find("3 held-out clips of labels without a training clip are left out: rare") !=
          std::string::npos);
}

TEST_CASE("one clip can't be scored twice in a row") {
    Predictions p = predictions("x", "ridge", 4, 2, 0);
    p.clips.push_back(p.clips.front());
    CHECK_THROWS_WITH(make_table({row(p)}, {}, 200, 1), Catch::Contains("two predictions"));
}
