#include <fmt/format.h>

#include <set>

#include "learn/encoder.hpp"
#include "learn/model_files.hpp"
#include "learn/pretrain.hpp"
#include "learn/runtime.hpp"
#include "plugins/call.hpp"

namespace biophony {

namespace {

Json sets_card(const std::vector<ClipSet>& sets, const std::vector<InputArtefact>& inputs) {
    Json card = Json::array();
    for (size_t s = 0; s < sets.size(); ++s) {
        std::set<std::string> labels;
        size_t clips = 0;
        for (const Clip& clip : sets[s].clips)
            if (clip.split == Split::kTrain) labels.insert(clip.label), ++clips;
        card.push_back({{"group", sets[s].group},
                        {"item", sets[s].item},
                        {"digest", inputs[s].digest},
                        {"train_clips", clips},
                        {"train_labels", labels.size()}});
    }
    return card;
}

}  // namespace

void run_pretrain(TaskContext& context) {
    const PretrainSettings settings = PretrainSettings::from(context.params);
    const std::vector<ClipSet> data = load_sets(context.input_list("data")),
                               backgrounds = load_sets(context.input_list("backgrounds"));
    LoadedEncoder encoder = load_encoder(context.input("encoder").folder / "encoder.safetensors", *context.registry);
    const CrashContext crash(encoder.card.encoder, context.node);
    const Pretrained result = pretrain(*encoder.module, data, backgrounds, *context.registry, settings, context.seed,
                                       std::max(1U, context.threads), *context.progress, *context.cancel, context.log);
    const Json card = {{"format", "biophony-pretraining/0"},
                       {"settings", context.params},
                       {"seed", context.seed},
                       {"encoder", context.input("encoder").digest},
                       {"data", sets_card(data, context.input_list("data"))},
                       {"backgrounds", sets_card(backgrounds, context.input_list("backgrounds"))}};
    save_encoder(encoder, context.out / "encoder.safetensors", {{"biophony.pretraining", canonical(card)}});
    Json file = card;
    file["history"] = result.history;
    write_json(context.out / "pretraining.json", file);
    context.headline = fmt::format("{} steps of {} windows, {:.0f} windows/s", settings.steps, settings.batch,
                                   result.windows_per_second);
    if (!result.history.empty())
        for (const char* name : {"contrastive", "supervised", "masked"})
            if (result.history.back().contains(name))
                context.headline +=
                    fmt::format(", {} accuracy {:.3f}", name, result.history.back()[name]["accuracy"].get<double>());
}

}  // namespace biophony
