#include "tasks/describing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "weights/remembered.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

namespace {

namespace fs = std::filesystem;

/// "encoder_layers 4", "no encoder_layers".
std::string setting(const Json& config, const std::string& name) {
    const auto found = config.find(name);
    return found == config.end() ? "no " + name : name + " " + found->dump();
}

/// Told once, whoever else it concerns.
bool first_time(Describing& describing, const std::string& what) {
    std::any& told = describing.known["told"];
    if (!told.has_value()) told = std::set<std::string>();
    return std::any_cast<std::set<std::string>&>(told).insert(what).second;
}

/// Whether two files of weights hold the same. Only what is sure: a name may be translated to another.
Same same_files(const fs::path& a, const fs::path& b) {
    std::error_code problem;
    if (fs::equivalent(a, b, problem)) return Same::kYes;
    try {
        const SafetensorsFile one = SafetensorsFile::open(a), other = SafetensorsFile::open(b);
        if (one.tensors().size() != other.tensors().size()) return Same::kUnknown;
        for (const TensorInfo& tensor : one.tensors()) {
            const TensorInfo* found = other.find(tensor.name);
            if (found == nullptr || found->shape != tensor.shape || found->dtype != tensor.dtype) return Same::kUnknown;
        }
        return remembered_hashes(one, 1).tensors == remembered_hashes(other, 1).tensors ? Same::kYes : Same::kNo;
    } catch (const Error&) {
        return Same::kUnknown;
    }
}

}  // namespace

void take_encoder(Description& to, const Description& from) {
    to.encoder = from.encoder;
    to.config = from.config;
    to.sample_rate = from.sample_rate;
    to.window_seconds = from.window_seconds;
    to.width = from.width;
    to.bands = from.bands;
    to.blocks = from.blocks;
    to.weights = from.weights;
    to.largest_tensor = from.largest_tensor;
}

void take_config(Description& to, const ItemInfo& item, const Json& config) {
    to.encoder = item.name();
    to.config = config;
    const EncoderFacts facts = encoder_facts(item, config);
    to.sample_rate = facts.sample_rate;
    to.window_seconds = facts.window_seconds;
    to.width = facts.width;
    to.bands = facts.bands;
    to.blocks = facts.blocks;
}

void take_sizes(Description& to, const std::vector<TensorInfo>& tensors) {
    uint64_t sum = 0, largest = 0;
    for (const TensorInfo& tensor : tensors) {
        const uint64_t bytes = is_floating(tensor.dtype) ? tensor.elements() * sizeof(float) : tensor.bytes();
        sum += bytes;
        largest = std::max(largest, bytes);
    }
    to.weights = sum;
    to.largest_tensor = largest;
}

void take_file(Description& to, const fs::path& file, const Registry& registry) {
    try {
        const SafetensorsFile source = SafetensorsFile::open(file);
        const EncoderCard card = EncoderCard::from(source);
        to.encoder = card.encoder;
        if (const ItemInfo* item = item_of(to, registry)) take_config(to, *item, card.config);
        take_sizes(to, source.tensors());
    } catch (const Error&) {
        // Whoever reads it as a result will tell.
    }
}

const ItemInfo* item_of(const Description& encoder, const Registry& registry) {
    const size_t colon = encoder.encoder.find(':');
    return colon == std::string::npos
               ? nullptr
               : registry.find(encoder.encoder.substr(0, colon), encoder.encoder.substr(colon + 1));
}

std::string other_architecture(const std::string& a, const Description& of_a, const std::string& b,
                               const Description& of_b) {
    if (of_a.encoder.empty() || of_b.encoder.empty()) return {};
    if (of_a.encoder != of_b.encoder) return fmt::format("'{}' is {}, '{}' is {}", a, of_a.encoder, b, of_b.encoder);
    if (!of_a.config || !of_b.config || *of_a.config == *of_b.config) return {};
    std::set<std::string> names;
    for (const Json* config : {&*of_a.config, &*of_b.config})
        for (const auto& [name, value] : config->items()) names.insert(name);
    for (const std::string& name : names)
        if (of_a.config->value(name, Json()) != of_b.config->value(name, Json()) ||
            of_a.config->contains(name) != of_b.config->contains(name))
            return fmt::format("'{}' is {} with {}, '{}' with {}", a, of_a.encoder, setting(*of_a.config, name), b,
                               setting(*of_b.config, name));
    return {};
}

Same same_weights(Describing& describing, const Origin& a, const Origin& b) {
    using Kind = Origin::Kind;
    if (a.node == b.node) return Same::kYes;
    if (a.kind == Kind::kMade || b.kind == Kind::kMade) {
        // What a merge makes is not what it began from, but two merges, or a chosen point, may come out the same.
        const Origin& made = a.kind == Kind::kMade ? a : b;
        const Origin& other = a.kind == Kind::kMade ? b : a;
        return other.kind == Kind::kMade || made.about != "compose" ? Same::kUnknown : Same::kNo;
    }
    if (a.kind != b.kind) return Same::kNo;
    if (a.kind == Kind::kFile) {
        const auto pair = std::minmax(a.file, b.file);
        std::any& known = describing.known[fmt::format("files:{}\n{}", pair.first.string(), pair.second.string())];
        if (!known.has_value()) known = same_files(a.file, b.file);
        return std::any_cast<Same>(known);
    }
    if (a.about != b.about) return Same::kNo;
    return a.kind == Kind::kRandom ? Same::kYes : Same::kUnknown;
}

void describe_vectors(Describing& describing, const char* base) {
    const std::vector<const Description*>& vectors = describing.input_list("vectors");
    const bool onto = base[0] != 0 && describing.input(base) != nullptr;
    const Description* first = onto ? describing.input(base) : vectors.empty() ? nullptr : vectors.front();
    if (first == nullptr) return;
    const std::string whose = describing.id(onto ? base : "vectors");
    take_encoder(describing.out, *first);
    std::vector<std::string> of_another;
    for (size_t i = 0; i < vectors.size(); ++i) {
        const Description& vector = *vectors[i];
        const std::string& id = describing.id("vectors", i);
        if (const std::string other = other_architecture(id, vector, whose, *first); !other.empty())
            return describing.problem(
                "/in/vectors",
                fmt::format("{}; expected {}", other,
                            onto ? "task vectors of the base's architecture" : "task vectors of one architecture"),
                Code::kRunFailed);
        if (describing.out.encoder.empty()) take_encoder(describing.out, vector);
        const std::shared_ptr<const Origin>& origin = onto ? first->origin : first->base;
        if (vector.base && origin && same_weights(describing, *vector.base, *origin) == Same::kNo)
            of_another.push_back(
                fmt::format("'{}' was taken from '{}'", id, describing.graph.nodes[vector.base->node].id));
    }
    if (!of_another.empty()) {
        std::string text = of_another.front();
        if (of_another.size() > 1) text += fmt::format(" (and {} more likewise)", of_another.size() - 1);
        describing.problem(
            "/in/vectors",
            onto ? fmt::format("{}, but is added to '{}', which has other weights; expected task vectors "
                               "of the base",
                               text, whose)
                 : fmt::format("{}, but '{}' from '{}', which has other weights; expected task vectors of "
                               "one base",
                               text, whose, describing.graph.nodes[first->base->node].id),
            Code::kRunFailed);
    }
    if (!onto) describing.out.base = first->base;
}

Together describe_data(Describing& describing, const std::string& port) {
    Together out;
    const std::vector<const Description*>& data = describing.input_list(port);
    std::vector<std::string> nodes;
    std::string key = "data";
    out.looked = !data.empty();
    std::set<std::string> seen;
    for (size_t i = 0; i < data.size(); ++i) {
        nodes.push_back(describing.id(port, i));
        key += fmt::format(":{}", describing.node.inputs.at(port)[i]);
        out.looked &= data[i]->clips != nullptr;
        if (data[i]->clips) out.sets.push_back(data[i]->clips.get());
        if (!data[i]->groups) continue;
        for (const std::string& group : *data[i]->groups) {
            out.groups.push_back(group);
            if (seen.insert(group).second) continue;
            if (const std::string told = two_sets_of_one_name(group, nodes.back()); first_time(describing, told))
                describing.problem("/in/" + port, told, Code::kRunFailed);
        }
    }
    if (!out.looked) return out;
    struct Facts {
        std::vector<std::string> labels;
    };
    std::any& known = describing.known[key];
    if (!known.has_value()) {
        std::set<std::string> labels;
        for (const ClipSet* set : out.sets)
            for (const Clip& clip : set->clips)
                if (clip.split == Split::kTrain) labels.insert(clip.label);
        known = Facts{{labels.begin(), labels.end()}};
        if (seen.size() == out.groups.size()) try {
                require_together(out.sets, nodes);
            } catch (const Error& error) {
                if (first_time(describing, error.message().text))
                    describing.problem("/in/" + port, error.message(), error.code());
            }
    }
    out.train_labels = std::any_cast<const Facts&>(known).labels;
    return out;
}

Together describe_training(Describing& describing, const std::string& port) {
    Together out = describe_data(describing, port);
    describing.out.groups = out.groups;
    if (!out.looked) return out;
    describing.out.labels = out.train_labels;
    try {
        require_two(out.train_labels);
    } catch (const Error& error) {
        describing.problem("/in/" + port, fmt::format("'{}': ", describing.node.id) + error.message(), error.code());
    }
    return out;
}

size_t clips_of(const ClipSet& set, std::optional<Split> split) {
    return static_cast<size_t>(std::count_if(set.clips.begin(), set.clips.end(),
                                             [&](const Clip& clip) { return !split || clip.split == *split; }));
}

uint64_t windows_of(const ClipSet& set, double window_seconds, std::optional<Split> split) {
    uint64_t count = 0;
    for (const Clip& clip : set.clips)
        if (!split || clip.split == *split)
            count += static_cast<uint64_t>(std::max<long long>(1, std::llround(clip.seconds() / window_seconds)));
    return count;
}

void note_rates(Describing& describing, const Description& encoder, const std::string& port) {
    if (!encoder.sample_rate) return;
    const std::vector<const Description*>& data = describing.input_list(port);
    for (size_t i = 0; i < data.size(); ++i) {
        if (!data[i]->clips) continue;
        size_t low = 0;
        double lowest = *encoder.sample_rate;
        for (const ClipRecording& recording : data[i]->clips->recordings)
            if (recording.source.sample_rate > 0 && recording.source.sample_rate < *encoder.sample_rate) {
                ++low;
                lowest = std::min(lowest, recording.source.sample_rate);
            }
        const std::string& id = describing.id(port, i);
        if (low > 0 && first_time(describing, fmt::format("rates:{}:{}", id, *encoder.sample_rate)))
            describing.note(
                "/in/" + port,
                fmt::format("{} of the {} recordings of '{}' have a sample rate below the encoder's {} Hz, "
                            "down to {} Hz: there is nothing to be heard in them above {} Hz",
                            low, data[i]->clips->recordings.size(), id, *encoder.sample_rate, lowest, lowest / 2));
    }
}

std::optional<int64_t> pooled_size(const Description& encoder, std::string_view pooling) {
    if (pooling == "mean") return encoder.width;
    if (pooling == "bands" && encoder.width && encoder.bands) return *encoder.width * *encoder.bands;
    return std::nullopt;
}

bool other_width(const Description& a, const Description& b, std::string_view pooling) {
    auto differ = [&](std::string_view by) {
        const auto one = pooled_size(a, by), other = pooled_size(b, by);
        return one && other && *one != *other;
    };
    return pooling.empty() ? differ("mean") && differ("bands") : differ(pooling);
}

std::string few(const std::vector<std::string>& names) {
    constexpr size_t kMost = 5;
    std::string out;
    for (size_t i = 0; i < std::min(kMost, names.size()); ++i)
        out += fmt::format("{}'{}'", i == 0 ? "" : ", ", names[i]);
    return names.size() > kMost ? fmt::format("{} and {} more", out, names.size() - kMost) : out;
}

void describe_training_memory(Describing& describing, const std::vector<const ClipSet*>& sets, uint64_t sound_limit) {
    Description& out = describing.out;
    out.holds = "whole model, gradients, optimiser, sound of the train clips";
    if (!out.weights) return;
    double seconds = 0;
    for (const ClipSet* set : sets)
        for (const Clip& clip : set->clips)
            if (clip.split == Split::kTrain) seconds += clip.seconds();
    const double sound = seconds * out.sample_rate.value_or(0) * sizeof(float);
    out.memory_bytes = 5 * *out.weights + std::min(sound_limit, static_cast<uint64_t>(sound));
}

}  // namespace biophony
