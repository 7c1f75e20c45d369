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
          "a,b,figure,group,clips,recordings,difference,low,high,repeats_low,repeats_high\n"
          "wins · ridge,fails · ridge,within,all,4,2,50.00,0.00,100.00,,\n"
          "wins · ridge,fails · ridge,within,bird,4,2,50.00,0.00,100.00,,\n");
    CHECK(table.to_text().find("+50.0 [+0.0, +100.0]") != std::string::npos);
    CHECK(table.to_markdown().find("| wins · ridge | fails · ridge | within | 4 |") != std::string::npos);
    for (const auto& cells : table.compare_cells) CHECK(cells.size() == table.compare_header.size());
}

TEST_CASE("a union is that of the groups that are scored, whatever else the specialists have heard") {
    Predictions frog = predictions("specialists", "own", 4, 3, 0);
    frog.model_groups = {"frog", "no frog"};
    frog.groups = {{"frog", {0, 1}}, {"no frog", {2}}};
    for (ClipPrediction& clip : frog.clips)
        if (clip.group == 1) clip.truth = clip.predicted = clip.predicted_within = 2;
    frog.clips.push_back(frog.clips.back());
    frog.clips.back().file = "one more";
    const Table table = make_table(
        {row(frog), row(predictions("joint", "ridge", 4, 4, 0), true), row(predictions("average", "ridge", 4, 2, 0))},
        {"joint", "", {}, {}}, 200, 1);
    CHECK(find(table, "average", "ridge").at("union_accuracy") == Approx(0.5));
    CHECK(find(table, "average", "ridge").at("gap_union").at("mean") == Approx(0.5));
    CHECK(find(table, "specialists", "own").at("union_accuracy").is_null());
    CHECK(find(table, "specialists", "own").at("groups").at("no frog").at("within_accuracy") == 1.0);
    CHECK(table.json.at("clips") == 8);
    CHECK(table.to_text().find("no figures over the union") == std::string::npos);

    // A model that lacks a group that others are scored on has no union, and the table says so.
    Predictions alone = predictions("alone", "ridge", 4, 4, 0), unheard = predictions("deaf", "ridge", 4, 4, 0);
    alone.model_groups = {"frog"};
    alone.groups = {{"frog", {0, 1}}};
    alone.clips.resize(4);
    unheard.model_groups = {"frog", "no frog"};  // as many as there are groups
    const Table fewer =
        make_table({row(alone), row(unheard), row(predictions("average", "ridge", 4, 2, 0))}, {}, 200, 1);
    CHECK(find(fewer, "alone", "ridge").at("union_accuracy").is_null());
    CHECK(find(fewer, "deaf", "ridge").at("union_accuracy").is_null());
    CHECK(find(fewer, "average", "ridge").at("union_accuracy") == Approx(0.5));
    CHECK(fewer.to_text().find(
              "alone · ridge has no figures over the union: it was scored on frog, other rows on bird, frog") !=
          std::string::npos);
    CHECK(fewer.to_text().find("deaf · ridge has no figures over the union: its model has no clips of bird") !=
          std::string::npos);
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

namespace {

/// A row of trainings, each with its repeat's name.
TableRow repeats(std::vector<std::pair<std::string, Predictions>> parts) {
    TableRow out{parts.front().second.row, parts.front().second.head, false, {}};
    for (auto& [name, part] : parts) {
        part.repeat = name;
        out.parts.push_back(std::move(part));
    }
    return out;
}

const std::vector<std::string> kTwo = {"a", "b"};

/// Four clips in two recordings, all of label a but the last; `answers` like "aaab".
Predictions answers(const std::string& row, const std::string& answers) {
    std::vector<std::tuple<std::string, std::string, std::string>> clips;
    for (size_t i = 0; i < 4; ++i)
        clips.emplace_back(i < 2 ? "r1" : "r2", i == 3 ? "b" : "a", std::string(1, answers[i]));
    Predictions p = part(row, kTwo, clips);
    for (ClipPrediction& clip : p.clips) clip.rank = clip.rank_within = clip.predicted == clip.truth ? 1 : 6;
    return p;
}

}  // namespace

TEST_CASE("repeats of one model are one row of means") {
    // Right: joint 4 and 2 of 4, in the second all of r1 and none of r2; base 1 of 4, once.
    const TableRow joint = repeats({{"0", answers("joint", "aaab")}, {"1", answers("joint", "aaba")}});
    const TableRow base = repeats({{"", answers("base", "abba")}});
    const Table table = make_table({joint, base}, {"joint", "base", {}, {}}, 1000, 1);
    const Json &j = find(table, "joint", "ridge"), &b = find(table, "base", "ridge");
    CHECK(j.at("clips") == 4);
    CHECK(j.at("repeats") == 2);
    CHECK(j.at("union_accuracy") == Approx(0.75));
    CHECK(j.at("top_5") == Approx(0.75));
    // F1 of repeat 0: 1; of repeat 1: a has 2 hits of 3 truths and 3 answers, 2/3; b none.
    CHECK(j.at("macro_f1") == Approx((1 + (2.0 / 3) / 2) / 2));
    CHECK(table.json.at("repeats") == 2);
    CHECK(table.json.at("clips") == 4);
    CHECK(table.json.at("folds") == 1);
    // Per clip the means are 1, 1, 1/2, 1/2 against 1, 0, 0, 0: r1 has +1/2 and r2 +1/2.
    const Json& gap = b.at("gap_union");
    CHECK(gap.at("mean") == Approx(0.5));
    CHECK(gap.at("low") == Approx(0.5));
    CHECK(gap.at("high") == Approx(0.5));
    CHECK(gap.at("repeats") == Json({{"0", 0.75}, {"1", 0.25}}));
    CHECK(table.to_csv().find("+25.0 … +75.0") != std::string::npos);
    CHECK(table.to_text().find("+25.0 … +75.0") != std::string::npos);
    CHECK(table.to_text().find("means of up to 2 repeats, 1 of base.") != std::string::npos);
    CHECK(table.confusion_csv ==
          "row,head,truth,predicted,clips\n"
          "joint,ridge,a,a,2.5000\njoint,ridge,a,b,0.5000\njoint,ridge,b,a,0.5000\njoint,ridge,b,b,0.5000\n"
          "base,ridge,a,a,1\nbase,ridge,a,b,2\nbase,ridge,b,a,1\n");
    CHECK(table.species_csv ==
          "row,head,group,species,clips,recordings,recall_within,recall_union,precision,f1\n"
          "joint,ridge,bird,a,3,2,0.8333,0.8333,0.8333,0.8333\njoint,ridge,bird,b,1,1,0.5000,0.5000,0.5000,0.5000\n"
          "base,ridge,bird,a,3,2,0.3333,0.3333,0.5000,0.4000\nbase,ridge,bird,b,1,1,0.0000,0.0000,0.0000,0.0000\n");
}

TEST_CASE("repeats are paired by name, and with the mean where the other side has none") {
    const TableRow joint =
        repeats({{"0", answers("joint", "aaab")}, {"1", answers("joint", "aaba")}, {"2", answers("joint", "bbba")}});
    const TableRow merge = repeats({{"0", answers("m", "aaaa")}, {"1", answers("m", "bbba")}});
    const Table table =
        make_table({joint, merge}, {"joint", "", {}, {}}, 200, 1, {{"m · ridge", "joint · ridge", false}});
    // 0: 4/4 − 3/4; 1: 2/4 − 0; 2: 0 against the mean of 3/4 and 0.
    const Json& gap = find(table, "m", "ridge").at("gap_union");
    CHECK(gap.at("repeats") == Json({{"0", 0.25}, {"1", 0.5}, {"2", -0.375}}));
    CHECK(gap.at("mean") == Approx(0.5 - 0.375));
    CHECK(table.to_compare_csv().find(",-50.00,37.50\n") != std::string::npos);
}

TEST_CASE("folds and repeats together, and what can't be") {
    auto of = [](const std::string& recording, const std::string& answer) {
        return part("x", kTwo, {{recording, "a", answer}});
    };
    TableRow row = repeats({{"0", of("r1", "a")}, {"0", of("r2", "a")}, {"1", of("r1", "b")}, {"1", of("r2", "a")}});
    const Table table = make_table({row}, {}, 200, 1);
    CHECK(find(table, "x", "ridge").at("union_accuracy") == Approx(0.75));
    CHECK(table.json.at("folds") == 2);
    row.parts[3].repeat = "0";
    CHECK_THROWS_WITH(make_table({row}, {}, 200, 1), Catch::Contains("and the repeat '0'") &&
                                                         Catch::Contains("r2.wav") && Catch::Contains("\"repeat\""));
    row.parts.pop_back();  // repeat 1 lacks the second fold
    CHECK(find(make_table({row}, {}, 200, 1), "x", "ridge").at("union_accuracy") == Approx((0.5 + 1) / 2));
    // Each clip counts once: r1 is right in one of its two repeats, r2 in its only one.
    CHECK(make_table({row}, {}, 200, 1).confusion_csv ==
          "row,head,truth,predicted,clips\nx,ridge,a,a,1.5000\nx,ridge,a,b,0.5000\n");
    CHECK(make_table({row}, {}, 200, 1).species_csv.find("x,ridge,bird,a,2,2,0.7500,0.7500,1.0000,0.8571\n") !=
          std::string::npos);
    CHECK(make_table({row}, {}, 200, 1).to_text().find("repeat '1' of x · ridge was scored on 1 of its 2 clips") !=
          std::string::npos);
}

TEST_CASE("many models and heads: the matrix, the heads' lines, and what is best without pooled clips") {
    auto with = [](const std::string& model, const std::string& head, int right) {
        Predictions p = predictions(model, head, 10, right, 0);
        p.sends = head == "probe" ? "clips" : head == "gated" ? "own heads, sums" : "sums";
        p.pools_clips = head == "probe";
        return row(p, model == "joint");
    };
    const Table table = make_table(
        {with("joint", "ridge", 8), with("joint", "gated", 7), with("joint", "probe", 9), with("joint", "own", 9),
         with("base", "ridge", 5), with("base", "gated", 6), with("base", "probe", 7), with("average", "ridge", 6),
         with("average", "gated", 6), with("average", "probe", 9), with("iso", "ridge", 7), with("iso", "gated", 5),
         with("ensemble", "gated", 8), with("random step", "ridge", 10)},
        {"joint", "base", {"random step"}, {"no mel statistics here"}}, 200, 1);
    CHECK(table.matrix_header == std::vector<std::string>{"model", "own", "gated", "ridge", "probe"});
    CHECK(table.matrix_cells.front() == std::vector<std::string>{"joint", "90.0", "70.0", "80.0", "90.0"});
    CHECK(table.matrix_cells.at(1) == std::vector<std::string>{"ensemble", "–", "80.0", "–", "–"});
    CHECK(table.matrix_cells.back()[0] == "random step");
    CHECK(table.json.at("matrix")[2].at("model") == "average");
    CHECK(table.json.at("matrix")[2].at("union_accuracy").at("probe") == Approx(0.9));
    // Rows of one head together: own, then gated and ridge, and probe, which needs all clips, last.
    std::vector<std::string> order;
    for (const auto& cells : table.cells)
        if (order.empty() || order.back() != cells[1]) order.push_back(cells[1]);
    CHECK(order == std::vector<std::string>{"own", "gated", "ridge", "probe"});
    CHECK(table.narrow_groups.at(1) == std::pair<size_t, std::string>(1, "gated; contributors send own heads, sums"));
    // The ensemble is a system, but no merge; the random step is neither.
    REQUIRE(table.heads_cells.size() == 3);
    CHECK(std::vector(table.heads_cells[1].begin(), table.heads_cells[1].begin() + 6) ==
          std::vector<std::string>{"ridge", "sums", "iso", "70.0", "50.0", "80.0"});
    CHECK(table.heads_cells[1][6].find("+10.0 [") == 0);
    CHECK(table.heads_cells[1][7].find("+20.0 [") == 0);
    CHECK(table.heads_cells[0][2] == "average");
    CHECK(table.json.at("best_without_pooled_clips").at("row") == "ensemble");
    CHECK(table.json.at("system_gap").at("gap").at("mean") == Approx(0.1));
    CHECK(find(table, "average", "probe").at("pools_clips") == true);
    CHECK(find(table, "joint", "ridge").at("sends") == "clips");
    const std::string text = table.to_text(), markdown = table.to_markdown();
    CHECK(text.find("best on these clips without pooled clips: ensemble · gated with 80.0") != std::string::npos);
    CHECK(text.find("no mel statistics here") != std::string::npos);
    CHECK(text.find("\n\nridge; contributors send sums\n  joint") != std::string::npos);
    CHECK(markdown.find("| model | own | gated | ridge | probe |") != std::string::npos);
    for (const auto& cells : table.cells) CHECK(cells.size() == table.header.size());
    for (const auto& cells : table.narrow_cells) CHECK(cells.size() == table.narrow_header.size());
    for (const auto& cells : table.heads_cells) CHECK(cells.size() == table.heads_header.size());
}

TEST_CASE("how many intervals leave out zero") {
    // Every clip differs in one, none in the other.
    const Table table =
        make_table({row(predictions("joint", "ridge", 6, 6, 0), true), row(predictions("m", "ridge", 6, 0, 0)),
                    row(predictions("n", "ridge", 6, 6, 0)), row(predictions("base", "ridge", 6, 6, 0)),
                    row(predictions("c", "ridge", 6, 0, 0))},
                   {"joint", "base", {"c"}, {}}, 200, 1);
    CHECK(table.json.at("intervals_without_zero") ==
          Json::parse(R"({"gaps": {"of": 3, "above_zero": 1, "below_zero": 0},
                          "gains": {"of": 2, "above_zero": 0, "below_zero": 1}})"));
    CHECK(table.to_text().find(
              "leaves out zero for 1 of 3 gaps (1 above, 0 below) and 1 of 2 gains (0 above, 1 below)") !=
          std::string::npos);
}

TEST_CASE("specialists gain on a base whose head is made from sums, and have no union anywhere") {
    Predictions specialist = predictions("specialists", "own", 10, 9, 0);
    specialist.model_groups = {"frog"};
    specialist.clips.resize(10);
    specialist.groups = {{"frog", {0, 1}}};
    Predictions own = predictions("base", "concatenate.raw", 10, 2, 0), sums = predictions("base", "ridge", 10, 5, 0);
    own.sends = "own heads";
    sums.sends = "sums";
    const Table table = make_table({row(specialist), row(own), row(sums)}, {"", "base", {}, {}}, 200, 1);
    CHECK(find(table, "specialists", "own").at("gain_within").at("mean") == Approx(0.4));
    CHECK(table.species_csv.find("specialists,own,frog,a,5,5,1.0000,,,\n") != std::string::npos);
}
