#include "plugins/merger_traits.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/nearest.hpp"

namespace biophony {

namespace {

const std::vector<std::string> kStages = {"transform", "combine", "post"}, kExperts = {"one", "all"},
                               kScopes = {"element", "tensor", "matrix", "global"}, kSpaces = {"delta", "weight"},
                               kNeeds = {"base", "linalg", "experts", "norms", "blocks"}, kJoins = {"ordered", "exact"},
                               kPresetKeys = {"use", "with"};
constexpr uint32_t kMostPasses = 100, kMostExperts = 1000;

class MergerReader {
public:
    MergerReader(const ItemInfo& item, std::vector<Diagnostic>& problems) : item_(item), problems_(problems) {}

    MergerTraits read() {
        MergerTraits out;
        const auto found = item_.raw.is_object() ? item_.raw.find("merger") : item_.raw.end();
        if (!item_.raw.is_object() || found == item_.raw.end() || !found->is_object()) {
            complain("", "the object 'merger' is missing, which says stage, scope and space");
            return out;
        }
        merger_ = &*found;
        if (merger_->contains("preset")) {
            read_preset();
            out.preset = (*merger_)["preset"];
            return out;
        }
        out.stage = static_cast<MergerTraits::Stage>(one_of("stage", kStages, true));
        out.scope = static_cast<MergerTraits::Scope>(one_of("scope", kScopes, true));
        out.weights = one_of("space", kSpaces, true) == 1;
        read_experts(out);
        for (const std::string& need : texts("needs")) {
            out.needs_base |= need == "base";
            out.needs_linalg |= need == "linalg";
            out.needs_experts |= need == "experts";
            out.needs_norms |= need == "norms";
            out.needs_blocks |= need == "blocks";
            if (index_of(need, kNeeds) == kNeeds.size())
                complain(
                    "/needs",
                    fmt::format("needs '{}', this host gives {}{}", need, fmt::join(kNeeds, ", "), near(need, kNeeds)),
                    Code::kPlugin);
        }
        if (out.needs_experts && out.stage != MergerTraits::Stage::kPost)
            complain("/needs", "found \"experts\", which is for post stages: the others see them anyway");
        if (out.needs_norms && out.stage == MergerTraits::Stage::kPost)
            complain("/needs",
                     "found \"norms\", which is for transforms and combines: post stages ask for \"experts\"");
        if (merger_->contains("random")) {
            if (!(*merger_)["random"].is_boolean())
                complain("/random", fmt::format("found {}, expected true or false", describe((*merger_)["random"])));
            else
                out.random = (*merger_)["random"];
        }
        out.roles = merger_->contains("roles") ? texts("roles") : std::vector<std::string>{"matrix"};
        if (merger_->contains("roles") && out.scope != MergerTraits::Scope::kMatrix)
            complain("/roles", "roles are for the scope \"matrix\"");
        if (out.roles.empty()) complain("/roles", "found no role, expected at least one, such as \"matrix\"");
        read_passes(out);
        return out;
    }

private:
    static size_t index_of(const std::string& value, const std::vector<std::string>& known) {
        return static_cast<size_t>(std::find(known.begin(), known.end(), value) - known.begin());
    }
    static std::string near(const std::string& word, const std::vector<std::string>& known) {
        return suggesting(Message(), nearest(word, known)).text;
    }

    void complain(const std::string& pointer, Message message, Code code = Code::kInvalid) {
        problems_.push_back({code, {.pointer = pointer}, std::move(message)});
    }

    /// The place of the value among the known ones; 0 after a problem.
    size_t one_of(const char* key, const std::vector<std::string>& known, bool required) {
        const auto found = merger_->find(key);
        if (found == merger_->end()) {
            if (required)
                complain("", fmt::format("the key '{}' is missing, expected one of {}", key, fmt::join(known, ", ")));
            return 0;
        }
        if (!found->is_string()) {
            complain(pointer_join("", key),
                     fmt::format("found {}, expected one of {}", describe(*found), fmt::join(known, ", ")));
            return 0;
        }
        const size_t at = index_of(*found, known);
        if (at < known.size()) return at;
        complain(pointer_join("", key),
                 fmt::format("has the {} '{}', this host knows {}{}", key, found->get<std::string>(),
                             fmt::join(known, ", "), near(*found, known)),
                 Code::kPlugin);
        return 0;
    }

    std::vector<std::string> texts(const char* key) {
        std::vector<std::string> out;
        const auto found = merger_->find(key);
        if (found == merger_->end()) return out;
        if (found->is_array() &&
            std::all_of(found->begin(), found->end(), [](const Json& value) { return value.is_string(); }))
            return found->get<std::vector<std::string>>();
        complain(pointer_join("", key), fmt::format("found {}, expected an array of texts", describe(*found)));
        return out;
    }

    void read_experts(MergerTraits& out) {
        if (const auto most = merger_->find("most_experts"); most != merger_->end()) {
            if (!most->is_number_integer() || *most < 1 || *most > kMostExperts)
                complain("/most_experts",
                         fmt::format("found {}, expected a number from 1 to {}", describe(*most), kMostExperts));
            else
                out.most_experts = *most;
        }
        const auto found = merger_->find("experts");
        if (found != merger_->end() && found->is_number_integer()) {
            if (out.stage != MergerTraits::Stage::kCombine || *found < 1 || *found > kMostExperts)
                complain("/experts", fmt::format("found {}, expected \"one\" or \"all\" for a transform, or, for a "
                                                 "combine that takes so many, a number from 1 to {}",
                                                 found->dump(), kMostExperts));
            else
                out.exactly = *found;
            return;
        }
        out.all_experts = one_of("experts", kExperts, false) == 1;
        if (out.all_experts && out.stage != MergerTraits::Stage::kTransform)
            complain("/experts",
                     "found \"all\", which is for transforms: a combine sees all experts, a post stage one");
    }

    void read_passes(MergerTraits& out) {
        const bool global = out.scope == MergerTraits::Scope::kGlobal;
        out.passes = global ? 1 : 0;
        if (merger_->contains("join") && !global) complain("/join", "to join is for the scope \"global\"");
        out.exact_join = one_of("join", kJoins, false) == 1;
        const auto found = merger_->find("observe");
        if (found == merger_->end()) return;
        if (!global)
            complain("/observe", "to observe is for the scope \"global\"");
        else if (!found->is_number_integer() || *found < 1 || *found > kMostPasses)
            complain("/observe", fmt::format("found {}, expected how many times all tensors are shown: 1 to {}",
                                             describe(*found), kMostPasses));
        else
            out.passes = *found;
    }

    void read_preset() {
        const size_t before = problems_.size();
        for (const auto& [key, value] : merger_->items())
            if (key != "preset" && !key.starts_with("x-"))
                complain(pointer_join("", key), "stands beside 'preset', whose stages say it themselves");
        const Json& preset = (*merger_)["preset"];
        if (!preset.is_array() || preset.empty()) {
            complain("/preset", fmt::format("found {}, expected a list of stages, {{\"use\": \"merger:…\"}}",
                                            preset.is_array() ? "an empty list" : describe(preset)));
            return;
        }
        const Json parameters =
            item_.parameters.is_object() ? item_.parameters.value("properties", Json::object()) : Json::object();
        std::vector<std::string> names;
        if (parameters.is_object())
            for (const auto& [name, schema] : parameters.items()) names.push_back(name);
        std::vector<std::string> used;
        for (size_t i = 0; i < preset.size(); ++i) {
            const std::string at = fmt::format("/preset/{}", i);
            const Json& stage = preset[i];
            if (!stage.is_object()) {
                complain(at, fmt::format("found {}, expected a stage, {{\"use\": \"merger:…\"}}", describe(stage)));
                continue;
            }
            for (const auto& [key, value] : stage.items())
                if (index_of(key, kPresetKeys) == kPresetKeys.size())
                    complain(pointer_join(at, key), with_nearest("unknown key", key, kPresetKeys));
            const Json use = stage.value("use", Json()), with = stage.value("with", Json::object());
            if (!use.is_string() || !use.get_ref<const std::string&>().starts_with("merger:"))
                complain(at + "/use", fmt::format("found {}, expected a merge stage, \"merger:…\"", describe(use)));
            if (!with.is_object()) {
                complain(at + "/with", fmt::format("found {}, expected an object", describe(with)));
                continue;
            }
            for (const auto& [key, value] : with.items()) {
                if (!value.is_object() || !value.contains("parameter")) continue;
                const Json& name = value["parameter"];
                if (value.size() == 1 && name.is_string() && index_of(name, names) < names.size())
                    used.push_back(name);
                else
                    complain(pointer_join(pointer_join(at, "with"), key),
                             fmt::format("found {}, expected {{\"parameter\": \"…\"}} with one of this item's own "
                                         "parameters{}",
                                         value.dump(),
                                         name.is_string() ? did_you_mean(name.get<std::string>(), names) : ""));
            }
        }
        if (problems_.size() != before) return;
        for (const std::string& name : names)
            if (index_of(name, used) == used.size())
                complain("/preset", fmt::format("no stage takes the item's parameter '{}', expected {{\"parameter\": "
                                                "\"{}\"}} in one of them",
                                                name, name));
    }

    const ItemInfo& item_;
    std::vector<Diagnostic>& problems_;
    const Json* merger_ = nullptr;
};

}  // namespace

const std::vector<std::string>& merger_keys() {
    static const std::vector<std::string> keys = {"stage", "experts", "most_experts", "scope",
                                                  "roles", "observe", "space",        "join",
                                                  "needs", "random",  "preset",       "permutation_invariant"};
    return keys;
}

MergerTraits read_merger(const ItemInfo& item, std::vector<Diagnostic>& problems) {
    return MergerReader(item, problems).read();
}

MergerTraits merger_traits(const ItemInfo& item) {
    std::vector<Diagnostic> problems;
    MergerTraits traits = read_merger(item, problems);
    if (!problems.empty()) throw Error(Code::kPlugin, problems[0].text(), {.plugin = item.name()});
    return traits;
}

bool is_preset(const ItemInfo& item) {
    return item.kind == "merger" && item.raw.is_object() && item.raw.contains("merger") &&
           item.raw["merger"].is_object() && item.raw["merger"].contains("preset");
}

}  // namespace biophony
