// Pretraining: its losses against hand calculations, its batches, and a short run on invented species.
#include "learn/pretrain.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "toy.hpp"

#undef CHECK
#include <catch2/catch.hpp>
#include <cmath>
#include <set>

#include "base/schema.hpp"
#include "learn/optimiser.hpp"
#include "pipeline/graph.hpp"
#include "plugins.hpp"
#include "tasks/node_types.hpp"

using namespace biophony;

namespace {

Json filled(const Json& schema, Json values) {
    std::vector<Diagnostic> problems;
    apply_schema(schema, values, "", problems);
    for (const Diagnostic& problem : problems) FAIL(problem.text());
    return values;
}

/// Clips of invented species, all in the train split but the last of each recording.
ClipSet invented(const std::string& group, int species = 3, int recordings = 3, double clip_seconds = 1) {
    const ItemInfo& item = test::torch_plugins().require("dataset:synthetic");
    ClipSet set{.group = group, .item = item.name()};
    set.params = filled(item.parameters, {{"group", group},
                                          {"species", species},
                                          {"recordings", recordings},
                                          {"clips", 3},
                                          {"clip_seconds", clip_seconds}});
    const DatasetSource::Description description = DatasetSource(item, set.params).describe();
    for (const Recording& recording : description.recordings) {
        const size_t index = set.recordings.size();
        set.recordings.push_back({recording.id, recording.id, recording.id, index, recording});
        for (int c = 0; c < 3; ++c)
            set.clips.push_back({index, c * clip_seconds, (c + 1) * clip_seconds,
                                 recording.id.substr(0, recording.id.find('/')), c < 2 ? Split::kTrain : Split::kTest});
    }
    return set;
}

LoadedEncoder tiny_encoder() {
    const ItemInfo& item = test::torch_plugins().require("encoder:beats");
    return make_encoder(item,
                        filled(item.parameters, {{"encoder_layers", 1},
                                                 {"encoder_embed_dim", 32},
                                                 {"encoder_ffn_embed_dim", 64},
                                                 {"encoder_attention_heads", 2},
                                                 {"embed_dim", 32},
                                                 {"conv_pos", 16},
                                                 {"conv_pos_groups", 4},
                                                 {"num_buckets", 32},
                                                 {"max_distance", 80},
                                                 {"window_seconds", 1.0}}),
                        5);
}

PretrainSettings settings(const Json& values) {
    return PretrainSettings::from(filled(node_types().find("pretrain")->parameters, values));
}

struct NoProgress : Progress {
    void update(double, double, std::string_view) override {}
};

Pretrained train(LoadedEncoder& encoder, const std::vector<ClipSet>& data, const Json& values, size_t threads = 2,
                 const std::vector<ClipSet>& backgrounds = {}) {
    NoProgress progress;
    const Cancel cancel;
    return pretrain(*encoder.module, data, backgrounds, test::torch_plugins(), settings(values), 3, threads, progress,
                    cancel, [](std::string_view) {});
}

WaveBatch batch_of(const std::vector<ClipSet>& data, const std::vector<ClipSet>& backgrounds, size_t threads,
                   int skip) {
    const BatchPlan plan(data, {1, 1}, 12, 2, 7);
    WaveStream stream(data, backgrounds, test::torch_plugins(), plan,
                      {.gain_low_db = -6,
                       .gain_high_db = 6,
                       .equaliser_db = 4,
                       .background_share = 0.5,
                       .snr_low_db = 0,
                       .snr_high_db = 10},
                      16000, 12000, 8, 7, threads);
    const Cancel cancel;
    for (; skip > 0; --skip) stream.next(cancel);
    return stream.next(cancel);
}

std::string error_of(const std::function<void()>& work) {
    try {
        work();
    } catch (const Error& error) {
        return error.what();
    }
    return "no error";
}

}  // namespace

TEST_CASE("the contrastive loss by hand", "[pretrain]") {
    // Rows at 0°, 90°, 60° and 180°; the first two share a label; the third is excluded for the first.
    const double h = std::sqrt(3.0) / 2;
    at::Tensor z = at::tensor({1.0, 0.0, 0.0, 1.0, 0.5, h, -1.0, 0.0}).view({4, 2});
    const at::Tensor labels = at::tensor({0, 0, 1, 2}, at::kLong);
    at::Tensor excluded = at::zeros({4, 4}, at::kBool);
    excluded[0][2] = true;
    excluded[2][0] = true;
    z.requires_grad_(true);
    const double t = 0.5;
    const ContrastiveResult found = contrastive_loss(z, labels, excluded, t);
    // First row: positive 0, negative −1. Second row: positive 0, negatives h and 0. The others have no positives.
    const double first = -std::log(1 / (1 + std::exp(-1 / t)));
    const double second = -std::log(1 / (2 + std::exp(h / t)));
    CHECK(found.loss.item<double>() == Approx((first + second) / 2));
    CHECK(found.accuracy.item<double>() == Approx(0.5));  // nearest to the second is the third
    found.loss.backward();
    CHECK(z.grad().isfinite().all().item<bool>());
    CHECK(z.grad().abs().max().item<double>() > 0.1);

    // With two positives the logarithms are averaged.
    const at::Tensor three = at::tensor({1.0, 0.0, 0.0, 1.0, -1.0, 0.0}).view({3, 2});
    const auto both = contrastive_loss(three, at::zeros({3}, at::kLong), at::zeros({3, 3}, at::kBool), 1);
    const double e = std::exp(1.0);
    const double outer = (std::log(1 + 1 / e) + (1 + std::log(1 + 1 / e))) / 2;  // rows 0 and 2
    CHECK(both.loss.item<double>() == Approx((2 * outer + std::log(2.0)) / 3));

    // A row to which all others are hidden has a gradient: none.
    at::Tensor alone = at::randn({2, 3}).requires_grad_(true);
    const auto nothing = contrastive_loss(alone, at::tensor({0, 1}, at::kLong),
                                          at::tensor({0, 1, 1, 0}).view({2, 2}).to(at::kBool), 0.1);
    nothing.loss.backward();
    CHECK(nothing.loss.item<double>() == 0);
    CHECK(alone.grad().isfinite().all().item<bool>());
}

TEST_CASE("the course of the learning rate", "[pretrain]") {
    CHECK(warm_up_then_cosine(0, 100, 0.1) == Approx(0.1));
    CHECK(warm_up_then_cosine(9, 100, 0.1) == Approx(1));
    CHECK(warm_up_then_cosine(55, 100, 0.1) == Approx(0.5));
    CHECK(warm_up_then_cosine(0, 1, 0) == Approx(1));
}

TEST_CASE("batches have the shares, labels and recordings that were asked for", "[pretrain]") {
    const std::vector<ClipSet> data = {invented("frog", 6), invented("bird", 2, 1)};
    const BatchPlan plan(data, {3, 1}, 16, 2, 1);
    CHECK(plan.draws(0) == 6);
    CHECK(plan.draws(1) == 2);
    CHECK(plan.labels(0).size() == 6);
    CHECK(plan.train_clips(0) == 36);
    std::set<std::vector<size_t>> different;
    for (int64_t step = 0; step < 20; ++step) {
        const std::vector<BatchItem> items = plan.items(step);
        REQUIRE(items.size() == 16);
        std::set<std::pair<size_t, int64_t>> labels;
        std::vector<size_t> clips;
        for (size_t i = 0; i < items.size(); i += 2) {
            const BatchItem &a = items[i], &b = items[i + 1];
            const Clip &one = data[a.set].clips[a.clip], &other = data[b.set].clips[b.clip];
            CHECK(a.set == (i < 12 ? 0 : 1));
            CHECK(labels.emplace(a.set, a.label).second);  // six draws of six labels: each once
            CHECK(one.split == Split::kTrain);
            CHECK(one.label == plan.labels(a.set)[static_cast<size_t>(a.label)]);
            CHECK(one.label == other.label);
            // Frogs have three recordings each; birds have one, but two clips of it.
            CHECK((one.recording != other.recording) == (a.set == 0));
            CHECK(a.clip != b.clip);
            clips.push_back(a.clip);
        }
        different.insert(clips);
        const std::vector<BatchItem> again = plan.items(step);
        for (size_t i = 0; i < items.size(); ++i) CHECK(items[i].clip == again[i].clip);
    }
    CHECK(different.size() == 20);
    // More draws than labels, more views than clips.
    const BatchPlan narrow({data[1]}, {1}, 12, 3, 1);
    std::vector<int> counts(2, 0);
    for (const BatchItem& item : narrow.items(0)) ++counts[static_cast<size_t>(item.label)];
    CHECK(counts == std::vector<int>{6, 6});

    std::vector<ClipSet> empty = {data[1]};
    for (Clip& clip : empty[0].clips) clip.split = Split::kTest;
    CHECK(error_of([&] { BatchPlan(empty, {1}, 4, 2, 1); }) == "the data set 'bird' has no train clips");
}

TEST_CASE("waves don't depend on how many threads read ahead", "[pretrain]") {
    const std::vector<ClipSet> data = {invented("frog", 3, 3, 0.5), invented("bird", 3, 3, 1)},
                               backgrounds = {invented("whale")};
    for (const int skip : {0, 6}) {
        const WaveBatch one = batch_of(data, backgrounds, 1, skip), four = batch_of(data, backgrounds, 4, skip);
        CHECK(one.waves.sizes() == at::IntArrayRef({12, 12000}));
        CHECK(one.waves.equal(four.waves));
        CHECK(one.waves.abs().amax().item<float>() <= 1.001F);
        for (size_t i = 0; i < one.items.size(); ++i) CHECK(one.items[i].clip == four.items[i].clip);
    }
    CHECK(!batch_of(data, backgrounds, 1, 0).waves.equal(batch_of(data, {}, 1, 0).waves));
}

namespace {

/// A batch of four windows of a second of noise at 8 kHz, from files.
WaveBatch noise(const std::vector<ClipSet>& backgrounds, const Augmentation& augmentation) {
    test::Sounds sounds;
    Random random(4);
    for (const char* label : {"a", "b"}) {
        std::vector<int16_t> samples(8000);
        for (int16_t& sample : samples) sample = static_cast<int16_t>(random.normal() * 500);
        sounds.add(samples, label);
    }
    const BatchPlan plan(sounds.sets, {1}, 4, 2, 7);
    const Registry none = Registry::of({});
    WaveStream stream(sounds.sets, backgrounds, none, plan, augmentation, 8000, 8000, 1, 7, 2);
    return stream.next(Cancel());
}

}  // namespace

TEST_CASE("gain and background are as many decibels as was asked for", "[pretrain]") {
    const at::Tensor plain = noise({}, {}).waves;
    auto power = [](const at::Tensor& x) { return x.to(at::kDouble).square().sum(1); };
    REQUIRE(power(plain).min().item<double>() > 0.1);
    CHECK(at::allclose(noise({}, {.gain_low_db = 6, .gain_high_db = 6}).waves, plain * std::pow(10, 0.3), 0, 1e-6));

    test::Sounds rain;  // longer than a window, and much louder
    Random random(5);
    std::vector<int16_t> samples(12000);
    for (int16_t& sample : samples) sample = static_cast<int16_t>(random.normal() * 5000);
    rain.add(samples, "rain");
    for (const double snr : {7.0, -3.0}) {
        const at::Tensor both = noise(rain.sets, {.background_share = 1, .snr_low_db = snr, .snr_high_db = snr}).waves;
        const at::Tensor ratio = (power(plain) / power(both - plain)).log10() * 10;
        CHECK((ratio - snr).abs().max().item<double>() < 0.1);
    }
    CHECK(noise(rain.sets, {.background_share = 0}).waves.equal(plain));
}

TEST_CASE("files are read once and kept, and windows are stretches of them", "[pretrain]") {
    test::Sounds sounds;
    sounds.add(test::Sounds::ramp(100, 300), "long");
    sounds.add(test::Sounds::ramp(-900, 60), "short");
    const BatchPlan plan(sounds.sets, {1}, 4, 2, 7);
    const Registry none = Registry::of({});
    // One thread: it has heard both clips when the first batch is there.
    WaveStream stream(sounds.sets, {}, none, plan, {}, 8000, 100, 50, 7, 1);
    std::set<int> starts;
    for (int step = 0; step < 50; ++step) {
        const WaveBatch batch = stream.next(Cancel());
        if (step == 0)
            for (const ClipRecording& recording : sounds.sets[0].recordings)
                REQUIRE(std::filesystem::remove(recording.source.uri));
        for (size_t i = 0; i < batch.items.size(); ++i) {
            const auto row = batch.waves.accessor<float, 2>()[static_cast<int64_t>(i)];
            const bool is_long = sounds.sets[0].clips[batch.items[i].clip].label == "long";
            const int first = static_cast<int>(std::lround(row[0] * 32768)), low = is_long ? 100 : -900;
            if (is_long) starts.insert(first);
            CHECK((first >= low && first <= low + (is_long ? 200 : 59)));
            bool right = true;
            for (int n = 0; n < 100; ++n) {
                const int expected = is_long ? first + n : low + (first - low + n) % 60;
                right = right && std::lround(row[n] * 32768) == expected;
            }
            CHECK(right);
        }
    }
    CHECK(starts.size() > 30);
}

TEST_CASE("windows of one file, or of one name in two sets, are no pair", "[pretrain]") {
    // Frogs a and b share a file; the birds have a label "a", too, and a file of the frogs.
    auto set = [](const std::string& group, const std::vector<std::pair<std::string, std::string>>& clips) {
        ClipSet out{.group = group, .item = "", .params = {}};
        for (const auto& [content, label] : clips) {
            const size_t index = out.recordings.size();
            out.recordings.push_back({std::to_string(index), std::to_string(index), content, index, {}});
            out.clips.push_back({index, 0, 1, label, Split::kTrain});
        }
        return out;
    };
    const std::vector<ClipSet> data = {set("frog", {{"x", "a"}, {"y", "a"}, {"x", "b"}}),
                                       set("bird", {{"z", "a"}, {"y", "c"}})};
    const BatchPlan plan(data, {1, 1}, 4, 1, 7);
    // By set, clip, label: frog a in x, frog a in x again, frog a in y, frog b in x, bird a in z, bird c in y.
    const Pairs::Batch found = Pairs(data, plan)({{0, 0, 0}, {0, 0, 0}, {0, 1, 0}, {0, 2, 1}, {1, 0, 0}, {1, 1, 1}});
    CHECK(found.labels.equal(at::tensor({0, 0, 0, 1, 2, 3}, at::kLong)));
    const at::Tensor expected = at::tensor({0, 0, 0, 1, 1, 0,   //
                                            0, 0, 0, 1, 1, 0,   //
                                            0, 0, 0, 0, 1, 1,   //
                                            1, 1, 0, 0, 0, 0,   //
                                            1, 1, 1, 0, 0, 0,   //
                                            0, 0, 1, 0, 0, 0})  //
                                    .view({6, 6})
                                    .to(at::kBool);
    CHECK(found.excluded.equal(expected));
}

TEST_CASE("the equaliser's curve is as strong as asked for", "[pretrain]") {
    // Clicks: their spectrum is flat, so what comes out has the filter's.
    at::Tensor waves = at::zeros({256, 1600});
    waves.select(1, 0).fill_(1);
    const at::Tensor out = equalised(waves, 16000, 4, 9);
    const auto cells = out.accessor<float, 2>();
    double sum = 0, square = 0;
    for (int64_t i = 0; i < 256; ++i) {
        // By definition: the spectrum at 1000 Hz, bin 100 of 1600.
        double re = 0, im = 0;
        for (int64_t n = 0; n < 1600; ++n) {
            re += cells[i][n] * std::cos(2 * M_PI * 100 * static_cast<double>(n) / 1600);
            im += cells[i][n] * std::sin(2 * M_PI * 100 * static_cast<double>(n) / 1600);
        }
        const double db = 20 * std::log10(std::hypot(re, im));
        sum += db;
        square += db * db;
    }
    // 1 kHz lies at 0.59 of the way from 50 Hz to 8 kHz: the cosines there have a mean square of 0.52.
    double expected = 0;
    for (int k = 1; k <= 5; ++k) expected += std::pow(std::cos(M_PI * k * std::log(20.0) / std::log(160.0)), 2) * 2 / 5;
    CHECK(std::abs(sum / 256) < 1);
    CHECK(std::sqrt(square / 256) == Approx(4 * std::sqrt(expected)).epsilon(0.15));
    CHECK(equalised(waves, 16000, 4, 9).equal(out));
    CHECK(at::allclose(equalised(waves, 16000, 0, 9), waves, 0, 1e-6));
}

TEST_CASE("a clip that can't be read is named", "[pretrain]") {
    std::vector<ClipSet> data = {invented("frog"), invented("bird")};
    data[1].recordings[0].source.uri = "/nowhere/sound.wav";
    const std::string error = error_of([&] {
        for (int skip = 0; skip < 8; ++skip) batch_of(data, {}, 3, skip);
    });
    CHECK(error.find("of recording '" + data[1].recordings[0].id + "' (bird)") != std::string::npos);
    CHECK(error.find("/nowhere/sound.wav") != std::string::npos);
}

TEST_CASE("a batch that has no memory is an error of the run", "[pretrain]") {
    const std::vector<ClipSet> data = {invented("frog")};
    const BatchPlan plan(data, {1}, 4, 2, 7);
    WaveStream stream(data, {}, test::torch_plugins(), plan, {}, 16000, size_t{1} << 60, 1000, 7, 2);
    const Cancel cancel;
    CHECK_THROWS(stream.next(cancel));
}

TEST_CASE("a stream ends early, is cancelled", "[pretrain]") {
    const std::vector<ClipSet> data = {invented("frog"), invented("bird")};
    const BatchPlan plan(data, {1, 1}, 4, 2, 7);
    WaveStream stream(data, {}, test::torch_plugins(), plan, {}, 16000, 16000, 1000, 7, 2);
    Cancel cancel;
    stream.next(cancel);
    cancel.request();
    CHECK(error_of([&] {
              for (int i = 0; i < 100; ++i) stream.next(cancel);
          }).find("cancelled") != std::string::npos);
}

TEST_CASE("forty steps lower the loss, twice the same", "[pretrain]") {
    at::set_num_threads(2);
    const std::vector<ClipSet> data = {invented("frog"), invented("bird")};
    const std::string objective = GENERATE("contrastive", "supervised", "masked");
    INFO(objective);
    const Json values = {{"steps", 40},
                         {"batch", 12},
                         {"learning_rate", 0.003},
                         {"warm_up", 0},
                         {"log_every", 8},
                         {"contrastive", {{"weight", objective == "contrastive" ? 1 : 0}}},
                         {"supervised", {{"weight", objective == "supervised" ? 1 : 0}}},
                         {"masked", {{"weight", objective == "masked" ? 1 : 0}, {"codes", 64}}},
                         {"augment", {{"equaliser_db", 0}}}};
    std::vector<at::Tensor> before;
    LoadedEncoder first = tiny_encoder(), second = tiny_encoder();
    for (const at::Tensor& parameter : first.module->parameters()) before.push_back(parameter.detach().clone());
    const Pretrained result = train(first, data, values, 1);
    const Pretrained again = train(second, data, values, 3);
    CHECK(result.history == again.history);
    REQUIRE(result.history.size() == 5);
    CHECK(result.history.back()["step"] == 40);
    CHECK(result.history.back()[objective]["loss"].get<double>() <
          result.history.front()[objective]["loss"].get<double>() - 0.05);
    const auto one = first.module->parameters(), other = second.module->parameters();
    for (size_t i = 0; i < one.size(); ++i) {
        CHECK(one[i].equal(other[i]));
        CHECK(!one[i].equal(before[i]));
    }
}

TEST_CASE("all objectives, backgrounds and bfloat16 go together", "[pretrain]") {
    const std::vector<ClipSet> data = {invented("frog"), invented("bird", 1)};
    LoadedEncoder encoder = tiny_encoder();
    const Json values = {{"steps", 2},
                         {"batch", 8},
                         {"shares", {3, 1}},
                         {"precision", "bf16"},
                         {"log_every", 1},
                         {"contrastive", {{"pooling", "bands"}}},
                         {"masked", {{"weight", 1}}},
                         {"supervised", {{"weight", 0.5}, {"pooling", "mean"}}}};
    const Pretrained result = train(encoder, data, values, 2, {invented("whale")});
    CHECK(result.history.size() == 2);
    CHECK(result.history[0].contains("contrastive"));
    CHECK(result.history[0].contains("supervised"));
    CHECK(result.history[0]["masked"]["codes"].get<double>() > 50);
}

TEST_CASE("masks keep the right number, in order, each row its own", "[pretrain]") {
    const Masks masks = draw_masks(50, 48, 0.75, 4);
    REQUIRE(masks.kept.sizes() == at::IntArrayRef({50, 12}));
    REQUIRE(masks.masked.sizes() == at::IntArrayRef({50, 36}));
    const at::Tensor steps = masks.kept.narrow(1, 1, 11) - masks.kept.narrow(1, 0, 11);
    CHECK(steps.gt(0).all().item<bool>());
    CHECK(std::get<0>(at::cat({masks.kept, masks.masked}, 1).sort(1)).equal(at::arange(48).expand({50, 48})));
    // Every token is kept about as often: 12.5 times of 50, standard deviation 3.1.
    const at::Tensor counts = masks.kept.flatten().bincount({}, 48);
    CHECK(counts.min().item<int64_t>() > 0);
    CHECK(counts.max().item<int64_t>() < 28);
    CHECK(draw_masks(50, 48, 0.75, 4).kept.equal(masks.kept));
    CHECK(!draw_masks(50, 48, 0.75, 5).kept.equal(masks.kept));
    CHECK(draw_masks(1, 10, 0.999, 1).kept.size(1) == 1);
    CHECK(draw_masks(1, 10, 0.001, 1).masked.size(1) == 1);
}

TEST_CASE("the tokenizer is a function of its seed, and uses its codes", "[pretrain]") {
    at::manual_seed(1);
    const at::Tensor tiles = at::randn({4, 100, 256});
    const at::Tensor codes = RandomTokenizer(256, 512, 3)(tiles);
    CHECK(codes.sizes() == at::IntArrayRef({4, 100}));
    CHECK(RandomTokenizer(256, 512, 3)(tiles).equal(codes));
    CHECK(!RandomTokenizer(256, 512, 4)(tiles).equal(codes));
    CHECK(codes.min().item<int64_t>() >= 0);
    CHECK(codes.max().item<int64_t>() < 512);
    CHECK(codes.flatten().bincount().gt(0).sum().item<int64_t>() > 150);
    // Of the tile alone, whatever its neighbours; and near tiles have the same code.
    CHECK(RandomTokenizer(256, 512, 3)(tiles[2].narrow(0, 7, 1)).equal(codes[2].narrow(0, 7, 1)));
    CHECK(RandomTokenizer(256, 512, 3)(tiles + 1e-3).eq(codes).to(at::kFloat).mean().item<float>() > 0.95F);
}

TEST_CASE("an encoder runs on some of its frames", "[pretrain]") {
    const LoadedEncoder encoder = tiny_encoder();
    encoder.module->eval();
    at::manual_seed(2);
    const at::Tensor features = at::randn({3, 96, 128});  // 6 instants of 8 bands
    const at::NoGradGuard no_grad;
    const at::Tensor tiles = encoder.module->tiles(features);
    REQUIRE(tiles.sizes() == at::IntArrayRef({3, 48, 256}));
    // Instant 2, band 5: frames 32 to 47, mel bands 80 to 95.
    CHECK(tiles.select(1, 21).equal(features.narrow(1, 32, 16).narrow(2, 80, 16).flatten(1)));
    const at::Tensor all = at::arange(48).expand({3, 48});
    const at::Tensor frames = encoder.module->frames(features, std::nullopt);
    CHECK(at::allclose(encoder.module->frames_of(features, all), frames, 0, 1e-6));
    // Whole instants, cut out of the features: 1 and 4 in the first row, 0 and 5 in the others.
    const auto rows = std::vector{std::pair{1, 4}, std::pair{0, 5}, std::pair{0, 5}};
    std::vector<at::Tensor> kept, cut;
    for (size_t i = 0; i < rows.size(); ++i) {
        const auto [a, b] = rows[i];
        kept.push_back(at::cat({at::arange(8 * a, 8 * a + 8), at::arange(8 * b, 8 * b + 8)}));
        const at::Tensor one = features[static_cast<int64_t>(i)];
        cut.push_back(at::cat({one.narrow(0, 16 * a, 16), one.narrow(0, 16 * b, 16)}));
    }
    CHECK(at::allclose(encoder.module->frames_of(features, at::stack(kept)),
                       encoder.module->frames(at::stack(cut), std::nullopt), 0, 1e-6));
    CHECK_THROWS_AS(encoder.module->frames_of(features, at::arange(49).expand({3, 49})), sdk::Error);
    CHECK_THROWS_AS(encoder.module->frames_of(features, at::arange(4).expand({2, 4})), sdk::Error);
}

TEST_CASE("masked prediction sees nothing of what is masked", "[pretrain]") {
    LoadedEncoder encoder = tiny_encoder();
    encoder.module->eval();
    const int64_t tokens = 48;
    MaskedPrediction objective(encoder.module->info(),
                               {.weight = 1, .share = 0.75, .codes = 16, .layers = 1, .width = 16}, 2);
    at::manual_seed(3);
    const at::Tensor features = at::randn({4, 96, 128});
    const MaskedPrediction::Result result = objective(*encoder.module, features, false, 8);
    CHECK(result.codes.sizes() == at::IntArrayRef({4, tokens}));
    CHECK(result.loss.item<double>() == Approx(std::log(16.0)).epsilon(0.5));
    result.loss.backward();
    for (const at::Tensor& parameter : objective.parameters()) {
        REQUIRE(parameter.grad().defined());
        CHECK(parameter.grad().abs().max().item<double>() > 0);
    }
    // Another sound under a masked token changes its code and no other, and nothing of what the encoder sees.
    const Masks masks = draw_masks(4, tokens, 0.75, 8);
    const int64_t hidden = masks.masked[1][3].item<int64_t>(), instant = hidden / 8, band = hidden % 8;
    at::Tensor changed = features.clone();
    const at::Tensor patch = changed[1].narrow(0, 16 * instant, 16).narrow(1, 16 * band, 16);
    patch.copy_(patch.flip({0, 1}));
    CHECK(encoder.module->frames_of(changed, masks.kept).equal(encoder.module->frames_of(features, masks.kept)));
    const at::Tensor codes = objective(*encoder.module, changed, false, 8).codes;
    const at::Tensor differ = codes.ne(result.codes);
    CHECK(differ.sum().item<int64_t>() == 1);
    CHECK(differ[1][hidden].item<bool>());
}

namespace {

/// An encoder with none of the optional functions.
struct Plain : Encoder {
    EncoderInfo info() const override { return {.window_seconds = 1, .width = 8, .depth = 1}; }
    at::Tensor features(const at::Tensor& waves) const override { return waves.narrow(1, 0, 64).view({-1, 8, 8}); }
    at::Tensor frames(const at::Tensor& features, const std::optional<at::Tensor>&) override { return features; }
    std::vector<at::Tensor> layers(const at::Tensor& features, const std::optional<at::Tensor>&) override {
        return {features, features};
    }
    at::Tensor frame_padding(const at::Tensor&, const at::Tensor& padding) const override { return padding; }
    void initialise(uint64_t) override {}
    torch_tier::ParameterRole role(std::string_view) const override { return {}; }
    std::string translate(std::string_view name) const override { return std::string(name); }
};

}  // namespace

TEST_CASE("an encoder that can't be masked is told so", "[pretrain]") {
    LoadedEncoder encoder{std::make_shared<Plain>(), {}};
    CHECK(error_of([&] {
              train(encoder, {invented("frog")}, {{"steps", 1}, {"batch", 4}, {"masked", {{"weight", 1}}}});
          }).find("this encoder doesn't say what its frames show, so masked prediction can't train it") !=
          std::string::npos);
}

TEST_CASE("a loss that is no number ends the run", "[pretrain]") {
    const std::vector<ClipSet> data = {invented("frog")};
    LoadedEncoder encoder = tiny_encoder();
    for (at::Tensor parameter : encoder.module->parameters())
        parameter.requires_grad_(false).fill_(NAN).requires_grad_(true);
    CHECK(error_of([&] {
              train(encoder, data, {{"steps", 2}, {"batch", 4}});
          }) == "the loss is no longer finite in step 1; a lower learning rate than 0.001 may help");
}

namespace {

/// What the checker says of a pipeline with two data sets and this "with" of its pretrain node.
std::string told(const Json& with) {
    const Json pipeline = {
        {"biophony", 1},
        {"axes", {{"guild", {"frog", "bird"}}}},
        {"nodes",
         {{"start", {{"use", "encoder:beats"}}},
          {"clips[guild]", {{"use", "dataset:synthetic"}, {"with", {{"group", "{guild}"}}}}},
          {"base",
           {{"use", "pretrain"},
            {"in", {{"encoder", "start"}, {"data", {"clips[*]"}}, {"backgrounds", "clips[bird]"}}},
            {"with", with}}},
          {"expert", {{"use", "fine-tune"}, {"in", {{"encoder", "base"}, {"data", "clips[frog]"}}}}}}}};
    std::vector<Diagnostic> problems;
    make_graph(pipeline.dump(), "p.json", {}, node_types(), test::torch_plugins(), problems);
    std::string text;
    for (const Diagnostic& problem : problems) text += problem.where.pointer + ": " + problem.message.text + "\n";
    return text;
}

}  // namespace

TEST_CASE("the checker knows pretrain's parameters", "[pretrain]") {
    const std::string at = "/nodes/base/with";
    CHECK(told({{"shares", {1, 3}}, {"contrastive", {{"views", 4}}}}).empty());
    CHECK(told({{"shares", {1}}}) == at + "/shares: found 1 shares for 2 data sets, expected one for each\n");
    CHECK(told({{"shares", {0, 0}}}) == at + "/shares: all shares are 0\n");
    CHECK(told({{"contrastive", {{"weight", 0}}}}).starts_with(at + ": nothing to learn"));
    CHECK(told({{"contrastive", {{"weight", 0}}}, {"masked", {{"weight", 1}}}}).empty());
    CHECK(told({{"batch", 127}}) == at + "/batch: found 127, expected a multiple of the 2 views\n");
    CHECK(told({{"augment", {{"gain_db", {1, -1}}}}}) ==
          at + "/augment/gain_db: the first number is above the second\n");
    CHECK(told({{"augment", {{"background", {{"snr_db", {9, 3}}}}}}}) ==
          at + "/augment/background/snr_db: the first number is above the second\n");
    CHECK(told({{"contrastive", {{"temprature", 1}}}}).find("did you mean 'temperature'") != std::string::npos);
    CHECK(told({{"precision", "fp16"}}).starts_with(at + "/precision: "));
}
