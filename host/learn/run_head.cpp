#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "learn/encoder.hpp"
#include "learn/model_files.hpp"
#include "learn/ridge.hpp"
#include "learn/runtime.hpp"
#include "learn/trainer.hpp"
#include "plugins/call.hpp"
#include "weights/safetensors.hpp"

namespace biophony {

namespace {

/// One contributor's sums, as they would be sent.
void save_sums(const RidgeSums& sums, const std::filesystem::path& file, const std::vector<std::string>& labels,
               const std::string& group) {
    const std::vector<std::pair<std::string, at::Tensor>> tensors = {
        {"sum_x", sums.x}, {"sum_y", sums.y}, {"xx", sums.xx}, {"xy", sums.xy}, {"yy", sums.yy}};
    std::vector<SafetensorsWriter::Tensor> announced;
    for (const auto& [name, tensor] : tensors) announced.push_back({name, DType::kF64, tensor.sizes().vec()});
    SafetensorsWriter writer(file, announced,
                             {{"biophony.format", "ridge-sums/0"},
                              {"biophony.group", group},
                              {"biophony.n", fmt::format("{}", sums.n)},
                              {"biophony.labels", canonical(labels)}});
    for (const auto& [name, tensor] : tensors) {
        const at::Tensor dense = tensor.contiguous();
        writer.write(name, 0, {static_cast<const std::byte*>(dense.data_ptr()), dense.nbytes()});
    }
    writer.finish();
}

}  // namespace

void run_head(TaskContext& context) {
    const at::NoGradGuard no_grad;
    std::vector<ClipSet> sets = load_sets(context.input_list("data"));
    const std::vector<std::string> labels = trained_labels(sets);
    LoadedEncoder encoder = load_encoder(context.input("encoder").folder / "encoder.safetensors", *context.registry);
    const CrashContext crash(encoder.card.encoder, context.node);
    const Pooling pooling = pooling_from(context.params.at("pooling").get<std::string>());
    const int64_t width = pooled_width(encoder.module->info(), pooling);
    const auto begin = std::chrono::steady_clock::now();

    // One contributor after the other: each sees its own clips only, and sends sums.
    RidgeSums total(width, static_cast<int64_t>(labels.size()));
    std::vector<std::string> groups;
    size_t count = 0;
    for (size_t i = 0; i < sets.size(); ++i) {
        const std::vector<ClipSet> own(1, sets[i]);
        WindowFeatures windows(own, Split::kTrain, *context.registry, *encoder.module, *context.progress,
                               *context.cancel);
        const at::Tensor features =
            embed(*encoder.module, windows, context.params.at("batch"), *context.progress, *context.cancel, pooling);
        std::vector<int64_t> classes;
        for (size_t w = 0; w < windows.windows().size(); ++w)
            classes.push_back(class_of(labels, windows.clip(w).label));
        RidgeSums sums(width, static_cast<int64_t>(labels.size()));
        if (!classes.empty()) sums.add(features, classes);
        save_sums(sums, context.out / fmt::format("sums-{}.safetensors", i), labels, sets[i].group);
        total += sums;
        groups.push_back(sets[i].group);
        count += classes.size();
    }
    std::optional<double> strength;
    if (context.params.contains("strength")) strength = context.params["strength"].get<double>();
    const RidgeModel model = solve_ridge(total, strength);
    if (model.at_edge)
        context.note(fmt::format("the best ridge strength, {:.3g}, lies at the edge of the grid that was searched",
                                 model.strength));
    const std::string given = context.params.at("name");
    std::string name = given.empty() ? "ridge" : given;
    if (given.empty() && pooling != Pooling::kMean) name += fmt::format(", {}", to_string(pooling));
    if (given.empty() && strength) name += fmt::format(", strength {}", *strength);
    HeadFile{model.weight, model.bias, name, labels, groups, pooling}.save(context.out / "head.safetensors");
    hand_on_encoder(context.input("encoder"), context.out);
    write_json(context.out / "head.json", {{"format", "biophony-head/0"},
                                           {"kind", "ridge"},
                                           {"name", name},
                                           {"labels", labels},
                                           {"groups", groups},
                                           {"pooling", to_string(pooling)},
                                           {"windows", count},
                                           {"strength", model.strength},
                                           {"gcv", model.gcv},
                                           {"strength_at_edge", model.at_edge}});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    context.headline = fmt::format("{} labels, {} windows, strength {:.2g}, {:.0f} windows/s", labels.size(), count,
                                   model.strength, static_cast<double>(count) / std::max(seconds, 1e-9));
}

}  // namespace biophony
