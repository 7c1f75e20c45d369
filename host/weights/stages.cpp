#include "weights/stages.hpp"

#include <fmt/format.h>

#include "base/nearest.hpp"
#include "base/schema.hpp"

namespace biophony {

namespace {

/// Parameters of a preset's stage, with those of the preset put in.
Json with_parameters(const Json& with, const Json& params) {
    Json out = Json::object();
    for (const auto& [key, value] : with.items()) {
        if (!value.is_object() || !value.contains("parameter"))
            out[key] = value;
        else if (const std::string name = value["parameter"]; params.contains(name))
            out[key] = params[name];
    }
    return out;
}

/// Appends the stages that `preset`, with these parameters, stands for.
void write_out(const ItemInfo& preset, const Json& params, size_t entry, const Registry& registry,
               const std::string& at, std::vector<MergeStage>& stages, std::vector<Diagnostic>& problems) {
    for (const Json& part : preset.raw.at("merger").at("preset")) {
        const std::string use = part.at("use");
        auto complain = [&](Code code, std::string_view below, const Message& message) {
            problems.push_back({code,
                                {.pointer = pointer_join(at, below)},
                                fmt::format("{} stands for {}: ", preset.name(), use) + message});
        };
        MergeStage stage{.preset = &preset, .entry = entry};
        try {
            stage.item = &registry.require(use);
        } catch (const Error& error) {
            complain(error.code(), "use", error.message());
            continue;
        }
        if (is_preset(*stage.item)) {
            complain(Code::kPlugin, "use", "that is a preset, too; a preset's stages are no presets");
            continue;
        }
        stage.params = with_parameters(part.value("with", Json::object()), params);
        std::vector<Diagnostic> found;
        apply_schema(stage.item->parameters, stage.params, "", found);
        for (const Diagnostic& problem : found)
            complain(problem.code, "with", problem.where.text() + ": " + problem.message);
        stages.push_back(std::move(stage));
    }
}

}  // namespace

std::vector<MergeStage> read_stages(const Json& list, const Registry& registry, std::string_view pointer,
                                    std::vector<Diagnostic>& problems) {
    std::vector<MergeStage> stages;
    for (size_t i = 0; i < list.size(); ++i) {
        const Json& entry = list[i];
        const std::string at = pointer_join(pointer, std::to_string(i));
        const std::string use = entry.at("use");
        if (!use.starts_with("merger:")) {
            std::vector<std::string> names;
            for (const ItemInfo* item : registry.items("merger")) names.push_back(item->id);
            const std::string near = nearest(use, names);
            problems.push_back({Code::kInvalid,
                                {.pointer = pointer_join(at, "use")},
                                suggesting(found_expected("'" + use + "'", "a merge stage, \"merger:…\""),
                                           near.empty() ? near : "merger:" + near)});
            continue;
        }
        MergeStage stage{.entry = i};
        try {
            stage.item = &registry.require(use);
        } catch (const Error& error) {
            problems.push_back({error.code(), {.pointer = pointer_join(at, "use")}, error.message()});
            continue;
        }
        stage.params = entry.value("with", Json::object());
        const size_t before = problems.size();
        apply_schema(stage.item->parameters, stage.params, pointer_join(at, "with"), problems);
        if (!is_preset(*stage.item))
            stages.push_back(std::move(stage));
        else if (problems.size() == before)
            write_out(*stage.item, stage.params, i, registry, at, stages, problems);
    }
    return stages;
}

std::string check_stages(const std::vector<MergeStage>& stages, size_t& stage, size_t experts) {
    using Stage = MergerTraits::Stage;
    constexpr const char* kOrder = "expected any transforms, exactly one combine, then any post stages";
    stage = 0;
    if (stages.empty()) return fmt::format("there are no stages, {}", kOrder);
    std::string combine;
    for (; stage < stages.size(); ++stage) {
        const ItemInfo& item = *stages[stage].item;
        const std::string name =
            item.name() + (stages[stage].preset == nullptr ? "" : " (of " + stages[stage].preset->name() + ")");
        if (item.interface_id != BPH_MERGER_V0)
            return fmt::format("{} speaks the interface '{}', expected '{}'", name, item.interface_id, BPH_MERGER_V0);
        std::vector<Diagnostic> problems;
        const MergerTraits traits = read_merger(item, problems);
        if (!problems.empty()) return fmt::format("the manifest of {}: {}", name, problems[0].text());
        if (is_preset(item)) return fmt::format("{} is a preset, expected the stages that it stands for", name);
        if (traits.stage == Stage::kTransform && !combine.empty())
            return fmt::format("{} is a transform after the combine {}, {}", name, combine, kOrder);
        if (traits.stage == Stage::kCombine && !combine.empty())
            return fmt::format("{} is a second combine after {}, {}", name, combine, kOrder);
        if (traits.stage == Stage::kPost && combine.empty())
            return fmt::format("{} is a post stage before any combine, {}", name, kOrder);
        if (traits.stage == Stage::kCombine) combine = name;
        if (experts != 0 && traits.exactly != 0 && traits.exactly != experts)
            return fmt::format("{} takes exactly {} experts, found {}", name, traits.exactly, experts);
        if (traits.most_experts != 0 && experts > traits.most_experts)
            return fmt::format("{} takes at most {} experts, found {}", name, traits.most_experts, experts);
        if (experts == 0 || !item.parameters.is_object()) continue;
        const Json properties = item.parameters.value("properties", Json::object());
        for (const auto& [key, schema] : properties.items()) {
            if (!schema.is_object()) continue;
            const Json value = stages[stage].params.is_object() ? stages[stage].params.value(key, Json()) : Json();
            if (schema.value("x-at-most-experts", Json()) == true && value.is_number() &&
                value > static_cast<double>(experts))
                return fmt::format("the parameter '{}' of {} is {}, expected at most the number of experts, {}", key,
                                   name, value.dump(), experts);
            if (schema.value("x-per-expert", Json()) != true) continue;
            if (value.is_array() && value.size() != experts)
                return fmt::format("the parameter '{}' of {} has {} entries, expected one per expert, {}", key, name,
                                   value.size(), experts);
        }
    }
    stage = stages.size() - 1;
    if (combine.empty()) return fmt::format("no stage is a combine, {}", kOrder);
    stage = 0;
    return {};
}

std::string check_blocks(const std::vector<MergeStage>& stages, size_t& stage, size_t blocks) {
    for (stage = 0; stage < stages.size(); ++stage) {
        const ItemInfo& item = *stages[stage].item;
        if (blocks == 0 && merger_traits(item).needs_blocks)
            return fmt::format("{} goes by blocks, but no tensor of the base is in one", item.name());
        if (!item.parameters.is_object() || !stages[stage].params.is_object()) continue;
        const Json properties = item.parameters.value("properties", Json::object());
        for (const auto& [key, schema] : properties.items()) {
            if (!schema.is_object() || schema.value("x-per-block", Json()) != true) continue;
            const Json value = stages[stage].params.value(key, Json());
            if (value.is_array() && value.size() != blocks)
                return fmt::format("the parameter '{}' of {} has {} entries, expected one per block of the encoder, {}",
                                   key, item.name(), value.size(), blocks);
        }
    }
    stage = 0;
    return {};
}

}  // namespace biophony
