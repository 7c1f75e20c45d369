// A model's figures from its predictions, against hand calculations.
#include "measure/predictions.hpp"

#include <array>
#include <catch2/catch.hpp>

using namespace biophony;

namespace {

/// Two groups: frogs a, b and birds b, c, which share b.
Predictions some() {
    Predictions p{.row = "x", .head = "ridge", .split = "test", .repeat = "2", .pools_clips = true, .sends = "clips"};
    p.labels = {"a", "b", "c"};
    p.model_groups = {"frog", "bird"};
    p.groups = {{"frog", {0, 1}}, {"bird", {1, 2}}};
    //          group, recording, file, start, end, truth, predicted, within, score, rank, rank within
    p.clips = {{0, "r1", "f1", 0, 1, 0, 0, 0, 0.5, 1, 1}, {0, "r1", "f1", 1, 2, 0, 2, 0, 0.5, 2, 1},
               {0, "r2", "f2", 0, 1, 0, 1, 1, 0.5, 3, 2}, {0, "r3", "f3", 0, 1, 1, 1, 1, 0.5, 1, 1},
               {1, "r4", "f4", 0, 1, 1, 0, 2, 0.5, 2, 2}, {1, "r5", "f5", 0, 1, 2, 2, 2, 0.5, 1, 1}};
    return p;
}

}  // namespace

TEST_CASE("figures of a model's predictions") {
    const Json m = metrics_of(some());
    CHECK(m.at("repeat") == "2");
    CHECK(m.at("all").at("union").at("accuracy") == Approx(3.0 / 6));
    CHECK(m.at("all").at("within").at("accuracy") == Approx(4.0 / 6));
    CHECK(m.at("all").at("union").at("top_5") == 1.0);  // there are three classes
    // Recalls over the union: a 1/3, b 1/2, c 1; within the frogs: a 2/3, b 1.
    CHECK(m.at("all").at("union").at("balanced_accuracy") == Approx((1.0 / 3 + 0.5 + 1) / 3));
    CHECK(m.at("groups").at("frog").at("within").at("balanced_accuracy") == Approx((2.0 / 3 + 1) / 2));
    const Json& a = m.at("groups").at("frog").at("species").at("a");
    CHECK(a.at("clips") == 3);
    CHECK(a.at("recordings") == 2);
    CHECK(a.at("recall_within") == Approx(2.0 / 3));
    CHECK(a.at("recall_union") == Approx(1.0 / 3));
    CHECK(a.at("precision") == Approx(1.0 / 2));  // clips 1 and 5 are called a, one is
    CHECK(a.at("f1") == Approx(2.0 / 5));
    // b lives in both groups: its recalls are the group's, its precision and F1 those of all clips.
    const Json &frog_b = m.at("groups").at("frog").at("species").at("b"),
               &bird_b = m.at("groups").at("bird").at("species").at("b");
    CHECK(frog_b.at("recall_union") == 1.0);
    CHECK(bird_b.at("recall_union") == 0.0);
    CHECK(frog_b.at("precision") == Approx(0.5));
    CHECK(bird_b.at("precision") == frog_b.at("precision"));
    CHECK(bird_b.at("f1") == Approx(2.0 / 4));
    CHECK_FALSE(m.at("groups").at("bird").at("species").contains("a"));

    // Two groups may call different recordings alike.
    Predictions alike = some();
    alike.clips[4].recording = "r1";
    CHECK(m.at("all").at("recordings") == 5);
    CHECK(metrics_of(alike).at("all").at("recordings") == 5);

    Predictions old = some();
    old.clips[3].rank = 0;
    CHECK(metrics_of(old).at("all").at("union").at("top_5").is_null());
    CHECK(metrics_of(old).at("all").at("within").at("top_5") == 1.0);
}

TEST_CASE("confusion of labels") {
    Predictions p = some();
    p.labels[2] = "c, d";
    CHECK(confusion_csv(p) == "truth,predicted,clips\na,a,1\na,b,1\na,\"c, d\",1\nb,a,1\nb,b,1\n\"c, d\",\"c, d\",1\n");
    CHECK(confusion_csv({}) == "truth,predicted,clips\n");
}

TEST_CASE("species over folds that number labels in their own ways") {
    const Predictions first = some();
    Predictions second = first;
    second.labels = {"b", "a"};
    second.groups = {{"frog", {0, 1}}};
    second.clips = {{0, "r9", "f9", 0, 1, 1, 1, 1}, {0, "r9", "f9", 1, 2, 0, 1, 1}};
    const auto species = species_of(std::array<const Predictions*, 2>{&first, &second});
    const SpeciesFigures& a = species.at("frog").at("a");
    CHECK(a.clips == 4);
    CHECK(a.recordings == 3);
    CHECK(a.recall_union == Approx(2.0 / 4));
    CHECK(a.precision == Approx(2.0 / 4));
    CHECK(species.at("frog").at("b").clips == 2);
}

TEST_CASE("predictions come back from their file, and from those of earlier versions") {
    const Predictions p = some();
    Json json = p.to_json();
    const Predictions back = Predictions::from_json(json);
    CHECK(back.to_json() == json);
    CHECK(back.clips[2].rank == 3);
    CHECK(back.clips[2].rank_within == 2);
    CHECK(back.repeat == "2");
    CHECK(back.pools_clips);
    CHECK(back.sends == "clips");
    for (const char* key : {"repeat", "pools_clips", "sends"}) json.erase(key);
    for (Json& clip : json["clips"]) clip.erase(9), clip.erase(9);
    const Predictions old = Predictions::from_json(json);
    CHECK(old.repeat.empty());
    CHECK_FALSE(old.pools_clips);
    CHECK(old.clips[2].rank == 0);
    CHECK(old.clips[2].score == 0.5);
    CHECK(p.to_csv().find("frog,r2,f2,0,1,a,b,b,0.5,3,2\n") != std::string::npos);
}
