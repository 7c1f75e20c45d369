#include "learn/model_files.hpp"

#include <fmt/format.h>

#include "base/files.hpp"
#include "weights/safetensors.hpp"

namespace biophony {

void HeadFile::save(const std::filesystem::path& file) const {
    const bool wide = weight.scalar_type() == at::kDouble;
    const DType dtype = wide ? DType::kF64 : DType::kF32;
    SafetensorsWriter writer(
        file, {{"weight", dtype, weight.sizes().vec()}, {"bias", dtype, bias.sizes().vec()}},
        {{"biophony.format", "head/0"},
         {"biophony.head",
          canonical({{"kind", kind}, {"labels", labels}, {"groups", groups}, {"pooling", to_string(pooling)}})}});
    for (const auto& [name, tensor] : {std::pair("weight", weight.contiguous()), std::pair("bias", bias.contiguous())})
        writer.write(name, 0, {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()});
    writer.finish();
}

std::vector<ClipSet> load_sets(const std::vector<InputArtefact>& data) {
    std::vector<ClipSet> sets;
    std::vector<std::string> nodes;
    for (const InputArtefact& artefact : data) {
        sets.push_back(ClipSet::load(artefact.folder));
        nodes.push_back(artefact.node);
    }
    require_together(pointers_to(sets), nodes);
    return sets;
}

std::vector<std::string> trained_labels(const std::vector<ClipSet>& sets) {
    return trained_labels(pointers_to(sets));
}

void hand_on_encoder(const InputArtefact& from, const std::filesystem::path& out, const std::string& name) {
    const fs::path source = from.folder / "encoder.safetensors", target = out / name;
    std::error_code problem;
    fs::create_hard_link(source, target, problem);
    if (problem) fs::copy_file(source, target);
}

}  // namespace biophony
