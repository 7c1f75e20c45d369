#include "weights/vector_sum.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "weights/finite.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

namespace {
constexpr size_t kChunk = 1 << 16;  // elements
}

void write_vector_sum(const std::vector<std::filesystem::path>& vectors, std::span<const double> factors,
                      const std::filesystem::path& out, const std::map<std::string, std::string>& extra,
                      Progress* progress, const Cancel* cancel) {
    if (vectors.empty() || vectors.size() != factors.size())
        throw Error(Code::kInternal, fmt::format("found {} factors for {} vectors", factors.size(), vectors.size()));
    std::vector<TaskVector> all;
    allow_open_files(vectors.size());
    for (const auto& path : vectors) {
        all.push_back(TaskVector::open(path, false));
        const TaskVector &first = all.front(), &other = all.back();
        const bool same = other.card().encoder == first.card().encoder && other.card().config == first.card().config &&
                          other.card().roles == first.card().roles && other.base() == first.base();
        if (!same)
            throw Error(Code::kRunFailed,
                        fmt::format("is a vector of another base than {}; expected vectors of one base",
                                    vectors.front().string()),
                        {.file = path.string()});
    }
    const SafetensorsFile& first = all.front().file();
    std::map<std::string, std::string> metadata = extra;
    for (const char* key :
         {"biophony.format", "biophony.encoder", "biophony.config", "biophony.roles", "biophony.base"})
        metadata[key] = first.metadata(key);
    metadata["biophony.encoding"] = "dense-f32";  // whatever the vectors have
    std::vector<SafetensorsWriter::Tensor> announced;
    uint64_t elements = 0, done = 0;
    for (const TensorInfo& tensor : first.tensors()) {
        announced.push_back({tensor.name, DType::kF32, tensor.shape});
        elements += tensor.elements();
        for (const TaskVector& vector : all)
            if (vector.file().require(tensor.name).shape != tensor.shape ||
                vector.file().tensors().size() != first.tensors().size())
                throw Error(Code::kRunFailed,
                            fmt::format("has other tensors than {}, or '{}' in another shape", first.path().string(),
                                        tensor.name),
                            {.file = vector.file().path().string()});
    }
    SafetensorsWriter writer(out, std::move(announced), metadata);
    std::vector<float> values(kChunk);
    std::vector<double> sum(kChunk);
    for (const TensorInfo& tensor : first.tensors())
        for (uint64_t at = 0; at < tensor.elements(); at += kChunk) {
            if (cancel != nullptr) cancel->check();
            const auto part = std::span(values).first(std::min<uint64_t>(kChunk, tensor.elements() - at));
            std::fill_n(sum.begin(), part.size(), 0.0);
            for (size_t i = 0; i < all.size(); ++i) {
                all[i].file().read_floats(all[i].file().require(tensor.name), at, part);
                if (const size_t k = first_not_finite(part); k < part.size())
                    throw Error(Code::kRunFailed,
                                fmt::format("tensor '{}' has {} at element {}", tensor.name, part[k], at + k),
                                {.file = all[i].file().path().string()});
                for (size_t k = 0; k < part.size(); ++k) sum[k] += factors[i] * static_cast<double>(part[k]);
            }
            for (size_t k = 0; k < part.size(); ++k) part[k] = static_cast<float>(sum[k]);
            if (const size_t k = first_not_finite(part); k < part.size())
                throw Error(Code::kRunFailed, fmt::format("the sum of the vectors has {} at element {} of tensor '{}'",
                                                          part[k], at + k, tensor.name));
            writer.write_floats(tensor.name, at, part);
            done += part.size();
            if (progress != nullptr)
                progress->update(static_cast<double>(done), static_cast<double>(elements), "values");
        }
    writer.finish();
}

}  // namespace biophony
