#include <algorithm>
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
    // Within the frogs, 9 of 10 against the base's 5 of 10 under the head that the models share.
    CHECK(specialists.at("gain_within").at("mean") == Approx(0.4));
    CHECK(specialists.at("gain_on_base").is_null());
    CHECK(table.to_text().find("the specialists' gain is within groups, their own heads against base · ridge") !=
          std::string::npos);
    CHECK(average.at("gain_within").at("mean") == Approx(0.3));
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

namespace {

/// A part with one group, "bird": clips (recording, truth, predicted) of files of their own.
Predictions part(const std::string& row, std::vector<std::string> labels,
                 const std::vector<std::tuple<std::string, std::string, std::string>>& clips) {
    Predictions p{.row = row, .head = "ridge", .split = "test", .labels = labels, .model_groups = {"bird"}};
    p.groups = {{"bird", {}}};
    auto code = [&](const std::string& label) {
        return static_cast<int>(std::find(labels.begin(), labels.end(), label) - labels.begin());
    };
    for (size_t i = 0; i < labels.size(); ++i) p.groups[0].classes.push_back(static_cast<int>(i));
    for (const auto& [recording, truth, predicted] : clips)
        p.clips.push_back({0, recording, recording + ".wav", static_cast<double>(p.clips.size()), 10, code(truth),
                           code(predicted), code(predicted)});
    return p;
}

}  // namespace

TEST_CASE("folds of one model are one row, by the labels' texts") {
    // The second fold has never seen b, so its c has another number.
    TableRow folds = row(part("x", {"a", "b", "c"}, {{"r1", "a", "a"}, {"r1", "b", "c"}, {"r2", "c", "c"}}));
    folds.parts.push_back(part("x", {"a", "c"}, {{"r3", "a", "a"}, {"r4", "c", "a"}}));
    folds.parts[0].unseen["rare"] = 1;
    folds.parts[1].unseen["rare"] = 2;
    const Table table = make_table({folds}, {}, 200, 1);
    const Json& x = find(table, "x", "ridge");
    CHECK(x.at("clips") == 5);
    CHECK(x.at("union_accuracy") == Approx(3.0 / 5));
    // Pooled: a 2 of 2 right with 1 false alarm, F1 = 4/5; b none, 0; c 1 of 2 with 1 false alarm, F1 = 2/4.
    CHECK(x.at("macro_f1") == Approx((0.8 + 0 + 0.5) / 3));
    CHECK(table.json.at("folds") == 2);
    CHECK(table.json.at("recordings") == 4);
    CHECK(table.to_text().find("5 held-out clips of 4 recordings, pooled over 2 folds.") != std::string::npos);
    CHECK(table.to_text().find("3 held-out clips of labels without a training clip") != std::string::npos);

    TableRow twice = folds;
    twice.parts[1] = twice.parts[0];
    CHECK_THROWS_WITH(make_table({twice}, {}, 200, 1),
                      Catch::Contains("two models are called 'x' with the head 'ridge'") && Catch::Contains("r1.wav"));
    TableRow mixed = folds;
    mixed.parts[1].split = "valid";
    CHECK_THROWS_WITH(make_table({mixed}, {}, 200, 1), Catch::Contains("the splits test and valid"));
}

TEST_CASE("paired differences, against a hand calculation") {
    // Two recordings of two clips; a is right on all of r1, b on none of it; both fail on r2. So the difference is 1/2,
    // and a resample has 0, 1 or 2 times r1: 0 with chance 1/4, 1/2 with 1/2, 1 with 1/4. The 2.5 % quantiles are 0
    // and 1.
    const std::vector<std::string> labels = {"a", "b"};
    const auto wins = part("wins", labels, {{"r1", "a", "a"}, {"r1", "b", "b"}, {"r2", "a", "b"}, {"r2", "a", "b"}});
    const auto fails = part("fails", labels, {{"r1", "a", "b"}, {"r1", "b", "a"}, {"r2", "a", "b"}, {"r2", "a", "b"}});
    const Table table = make_table({row(wins), row(fails)}, {}, 1000, 1, {{"wins · ridge", "fails · ridge", true}});
    REQUIRE(table.json.at("compare").size() == 1);
    const Json& compared = table.json.at("compare")[0];
    for (const Json& d : {compared.at("all"), compared.at("groups").at("bird")}) {
        CHECK(d.at("mean") == Approx(0.5));
        CHECK(d.at("low") == 0.0);
        CHECK(d.at("high") == 1.0);
        CHECK(d.at("clips") == 4);
        CHECK(d.at("recordings") == 2);
    }
    CHECK(table.to_compare_csv() ==
          "a,b,figure,group,clips,recordings,difference,low,high\n"
          "wins · ridge,fails · ridge,within,all,4,2,50.00,0.00,100.00\n"
          "wins · ridge,fails · ridge,within,bird,4,2,50.00,0.00,100.00\n");
    CHECK(table.to_text().find("+50.0 [+0.0, +100.0]") != std::string::npos);
    CHECK(table.to_markdown().find("| wins · ridge | fails · ridge | within | 4 |") != std::string::npos);
    for (const auto& cells : table.compare_cells) CHECK(cells.size() == table.compare_header.size());
}

TEST_CASE("differences that can't be told are errors") {
    Predictions specialist = predictions("specialists", "own", 4, 3, 0);
    specialist.model_groups = {"frog"};
    specialist.groups = {{"frog", {0, 1}}};
    specialist.clips.resize(4);
    auto compare = [&](const std::string& a, const std::string& b, bool within) {
        return make_table({row(predictions("average", "ridge", 4, 2, 0)), row(specialist)}, {}, 200, 1,
                          {{a, b, within}});
    };
    CHECK_THROWS_WITH(compare("averge · ridge", "specialists · own", true),
                      Catch::Contains("there is no row 'averge · ridge'; did you mean 'average · ridge'?"));
    CHECK_THROWS_WITH(compare("average · ridge", "specialists · own", false),
                      Catch::Contains("expected \"figure\": \"within\""));
    const Table table = compare("average · ridge", "specialists · own", true);
    CHECK(table.json.at("compare")[0].at("all").at("clips") == 4);
    CHECK(table.json.at("compare")[0].at("groups").at("bird").is_null());
}

TEST_CASE("controls stand last and are no systems") {
    const Table table = make_table(
        {row(predictions("mel-statistics", "ridge", 10, 9, 0)), row(predictions("average", "ridge", 10, 6, 0)),
         row(predictions("joint", "own", 10, 9, 0), true), row(predictions("base", "ridge", 10, 5, 0))},
        {"joint", "base", {"mel-statistics"}}, 200, 1);
    CHECK(table.cells.back()[0] == "mel-statistics");
    CHECK(table.json.at("system_gap").at("row") == "average");
    CHECK(find(table, "mel-statistics", "ridge").at("gain_on_base").at("mean") == Approx(0.4));
}
