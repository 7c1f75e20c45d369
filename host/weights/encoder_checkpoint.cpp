#include "weights/encoder_checkpoint.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/files.hpp"

namespace biophony {

namespace {

/// Every name that the card has a role for needs a tensor. Names may be other ones that the plugin translates, so only
/// where there are too few tensors for the roles is one missing for sure.
void check_complete(const EncoderCheckpoint& checkpoint, const std::string& encoder) {
    const std::vector<TensorInfo>& tensors = checkpoint.file.tensors();
    if (tensors.size() >= checkpoint.card->roles.size()) return;
    std::vector<std::string> missing;
    for (const auto& [name, role] : checkpoint.card->roles.items())
        if (checkpoint.file.safetensors()->find(name) == nullptr) missing.push_back(name);
    const size_t all = missing.size();
    if (all == 0) return;
    if (all > 5) missing.resize(5);
    throw Error(Code::kRunFailed,
                fmt::format("lacks tensors that {} needs: {}{}", encoder, fmt::join(missing, ", "),
                            all > 5 ? fmt::format(" … ({} in all)", all) : ""),
                {.file = checkpoint.file.path().string()});
}

}  // namespace

EncoderCheckpoint open_encoder_checkpoint(const std::string& encoder, const std::filesystem::path& file,
                                          const std::filesystem::path& config) {
    EncoderCheckpoint out{.file = Checkpoint::open(file), .card = {}, .config = {}, .config_file = {}};
    const Checkpoint& source = out.file;
    const Where where = {.file = file.string()};
    // A node's key counts the file that it names, not the ones that this names in turn.
    if (source.files() != std::vector{source.path()})
        throw Error(Code::kRunFailed, "is in shards; 'biophony convert' makes one file of them", where);
    if (source.metadata().contains("biophony.config") && source.safetensors() != nullptr) {
        out.card = EncoderCard::from(*source.safetensors());
        if (out.card->encoder != encoder)
            throw Error(Code::kRunFailed, fmt::format("holds {}, expected {}", out.card->encoder, encoder), where);
        if (!config.empty())
            throw Error(
                Code::kRunFailed,
                fmt::format("is an encoder file, which has its configuration; {} is not for it", config.string()),
                where);
    } else {
        out.config = source.config();
        out.config_file = config.empty() && out.config.empty() ? sidecar_config(file) : config;
        if (!out.config_file.empty()) out.config = read_file(out.config_file);
        if (out.config.empty())
            throw Error(
                Code::kRunFailed,
                fmt::format("has no configuration, and weights alone don't say how they are used; put it beside the "
                            "file as {} or name it with the parameter 'config' ({{}} means: the parameters as they "
                            "are given)",
                            sidecar_name(file).filename().string()),
                where);
    }
    for (const Checkpoint::Unreadable& tensor : source.unreadable())
        throw Error(Code::kRunFailed, fmt::format("the tensor '{}' can't be read: {}", tensor.name, tensor.why), where);
    if (out.card) check_complete(out, encoder);
    return out;
}

}  // namespace biophony
