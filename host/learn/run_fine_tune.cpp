#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "learn/encoder.hpp"
#include "learn/model_files.hpp"
#include "learn/runtime.hpp"
#include "learn/trainer.hpp"
#include "plugins/call.hpp"

namespace biophony {

namespace {

constexpr uint64_t kMemory = uint64_t{4} << 30;

std::vector<int64_t> classes_of(const WindowFeatures& windows, const std::vector<std::string>& labels) {
    std::vector<int64_t> out;
    for (size_t i = 0; i < windows.windows().size(); ++i) out.push_back(class_of(labels, windows.clip(i).label));
    return out;
}

/// Whether the encoder's features have the axes (window, time, band), which masks of features need.
bool has_bands(const Encoder& encoder) {
    const EncoderInfo info = encoder.info();
    const int64_t samples = std::llround(info.window_seconds * info.sample_rate);
    return encoder.features(at::zeros({1, samples})).dim() == 3;
}

}  // namespace

void run_fine_tune(TaskContext& context) {
    const Recipe recipe = recipe_from(context.params);
    const std::vector<ClipSet> sets = load_sets(context.input_list("data"));
    const std::vector<std::string> labels = trained_labels(sets);
    LoadedEncoder encoder = load_encoder(context.input("encoder").folder / "encoder.safetensors", *context.registry);
    const CrashContext crash(encoder.card.encoder, context.node);
    if (encoder.module->parameters().empty())
        throw Error(Code::kRunFailed,
                    fmt::format("{} has no parameters, so there is nothing to fine-tune; give it a head instead",
                                encoder.card.encoder));
    if (context.params.value("activation_checkpointing", false) && !encoder.module->checkpoint_activations(true))
        throw Error(Code::kRunFailed, fmt::format("{} has no activation checkpointing", encoder.card.encoder),
                    {.parameter = "activation_checkpointing"});
    if (recipe.band_masks + recipe.time_masks > 0 && !has_bands(*encoder.module))
        context.note(
            fmt::format("the features of {} are not bands over time, so the masks that the recipe '{}' puts on "
                        "features are left out",
                        encoder.card.encoder, recipe.name));
    WindowFeatures windows(
        sets, Split::kTrain, *context.registry, *encoder.module, *context.progress, *context.cancel, kMemory,
        recipe.changes_waves() ? WindowFeatures::Keep::kSound : WindowFeatures::Keep::kFeatures, {}, context.out);
    WindowFeatures valid(sets, Split::kValid, *context.registry, *encoder.module, *context.progress, *context.cancel,
                         kMemory, WindowFeatures::Keep::kFeatures, {}, context.out);
    std::vector<std::string> recordings;
    for (size_t i = 0; i < windows.windows().size(); ++i) {
        const ClipSet& set = sets[windows.windows()[i].set];
        recordings.push_back(set.recordings[windows.clip(i).recording].unit);
    }
    const TrainedHead trained = train(*encoder.module, windows, classes_of(windows, labels), recordings, valid,
                                      classes_of(valid, labels), static_cast<int64_t>(labels.size()), recipe,
                                      context.seed, *context.progress, *context.cancel, context.log);

    std::vector<std::string> groups;
    Json group_list = Json::array();
    for (const ClipSet& set : sets) {
        groups.push_back(set.group);
        size_t train_clips = 0;
        for (const Clip& clip : set.clips) train_clips += clip.split == Split::kTrain ? 1 : 0;
        group_list.push_back({{"name", set.group}, {"labels", set.labels()}, {"train_clips", train_clips}});
    }
    const Json recipe_card = recipe.card();
    save_encoder(encoder, context.out / "encoder.safetensors", {{"biophony.recipe", canonical(recipe_card)}});
    HeadFile{trained.head.weight, trained.head.bias, "own", labels, groups, recipe.pooling}.save(context.out /
                                                                                                 "head.safetensors");
    write_json(context.out / "training.json", {{"format", "biophony-training/0"},
                                               {"recipe", recipe_card},
                                               {"labels", labels},
                                               {"groups", group_list},
                                               {"seed", context.seed},
                                               {"train_windows", windows.windows().size()},
                                               {"kept_epoch", trained.kept_epoch},
                                               {"history", trained.history}});
    // The last entry is the last epoch's; before the first epoch's there may be the start's.
    context.headline = fmt::format(
        "{} labels, {} windows × {} epochs, {:.0f} windows/s", labels.size(), windows.windows().size(),
        trained.history.empty() ? 0 : trained.history.back()["epoch"].get<int>(), trained.windows_per_second);
    for (const Json& entry : trained.history)
        if (entry["epoch"] == trained.kept_epoch && entry.contains("valid_accuracy"))
            context.headline += fmt::format(
                ", valid accuracy {:.3f} {}, kept", entry["valid_accuracy"].get<double>(),
                trained.kept_epoch == 0 ? std::string("at the start") : fmt::format("in epoch {}", trained.kept_epoch));
    const Json& first = trained.history.empty() ? Json::object() : trained.history.front();
    if (trained.kept_epoch > 0 && first.value("epoch", 1) == 0)
        for (const Json& entry : trained.history)
            if (entry["epoch"] == trained.kept_epoch && entry["valid_loss"] >= first["valid_loss"])
                context.note(
                    "no epoch has a lower validation loss than the start: fine-tuning has added nothing that these "
                    "held-out clips show");
}

}  // namespace biophony
