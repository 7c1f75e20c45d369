// What the descriptions of several node types share. Nothing here touches a result.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "pipeline/describe.hpp"
#include "plugins/encoder_facts.hpp"
#include "tasks/clips.hpp"
#include "weights/safetensors.hpp"

namespace biophony {

/// What is known of the encoder in `from` is known of the one in `to`.
void take_encoder(Description& to, const Description& from);
/// Fills in what the configuration says, by the plugin's manifest.
void take_config(Description& to, const ItemInfo& item, const Json& config);
/// Fills in the sizes of an encoder's weights, once they are float32.
void take_sizes(Description& to, const std::vector<TensorInfo>& tensors);
/// Fills in what the head of an encoder file tells, a result's. Nothing where it can't be read.
void take_file(Description& to, const std::filesystem::path& file, const Registry& registry);

/// The plugin of an encoder; null where it isn't known.
const ItemInfo* item_of(const Description& encoder, const Registry& registry);

/// How two architectures differ, with the names that messages call them by; empty where they are the same, or not both
/// known. "'a' is encoder:beats with encoder_layers 4, 'b' with 12".
std::string other_architecture(const std::string& a, const Description& of_a, const std::string& b,
                               const Description& of_b);

enum class Same { kYes, kNo, kUnknown };
/// Whether two origins give the same weights. Files of equal tensors are read where their names differ.
Same same_weights(Describing& describing, const Origin& a, const Origin& b);

/// The port "vectors" against each other, and against the port `base` where that isn't empty: one architecture, one
/// base. Takes what is known of the encoder into `out`.
void describe_vectors(Describing& describing, const char* base);

/// What the data sets of a port are together.
struct Together {
    bool looked = false;  ///< whether all were; else the labels aren't known
    std::vector<std::string> groups;
    std::vector<std::string> train_labels;  ///< sorted
    std::vector<const ClipSet*> sets;       ///< those that were looked at
};
/// Tells, once for each list of sets, that they can't stand together.
Together describe_data(Describing& describing, const std::string& port);
/// describe_data() of what is learned from: two labels are needed. Fills in labels and groups.
Together describe_training(Describing& describing, const std::string& port);

/// Clips of a split; of all where there is none.
size_t clips_of(const ClipSet& set, std::optional<Split> split);
/// Windows that an encoder hears of them.
uint64_t windows_of(const ClipSet& set, double window_seconds, std::optional<Split> split);
/// Says where an encoder hears more than there is in a set's recordings.
void note_rates(Describing& describing, const Description& encoder, const std::string& port);

/// Numbers of a pooled window; absent where not known.
std::optional<int64_t> pooled_size(const Description& encoder, std::string_view pooling);
/// Whether heads for one can't fit the other's features, whatever the pooling is.
bool other_width(const Description& a, const Description& b, std::string_view pooling);

/// "'a', 'b', 'c' and 4 more", for messages.
std::string few(const std::vector<std::string>& names);

/// The memory of a training: parameters, gradients, the optimiser's two moments, the best epoch, and the sound of the
/// train clips or their features, up to a limit.
void describe_training_memory(Describing& describing, const std::vector<const ClipSet*>& sets, uint64_t sound_limit);

}  // namespace biophony
