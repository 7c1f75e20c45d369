#include "learn/encoder.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "base/files.hpp"
#include "base/nearest.hpp"
#include "plugins/call.hpp"
#include "weights/checkpoint.hpp"
#include "weights/encoder_checkpoint.hpp"

namespace biophony {

namespace {

const torch_tier::EncoderFactory& factory_of(const ItemInfo& item) {
    const auto* table = static_cast<const torch_tier::EncoderTable*>(Registry::load(item));
    return *table->factory;
}

/// Runs a call into the encoder's plugin; its errors become ours, with its name.
template <class Body>
auto calling(const std::string& name, Body&& body) {
    try {
        return body();
    } catch (const sdk::Error& error) {
        throw Error(error.status() == BPH_INVALID_ARGUMENT ? Code::kInvalid : Code::kRunFailed, error.what(),
                    {.plugin = name, .parameter = error.parameter()});
    } catch (const Error&) {
        throw;
    } catch (const std::exception& error) {
        // LibTorch's texts carry a backtrace after the first line.
        throw Error(Code::kRunFailed,
                    std::string(error.what(), std::string_view(error.what()).find('\n') == std::string_view::npos
                                                  ? std::string_view(error.what()).size()
                                                  : std::string_view(error.what()).find('\n')),
                    {.plugin = name});
    }
}

/// All tensors of a module by name, parameters and buffers.
std::map<std::string, at::Tensor> tensors_of(const Encoder& encoder) {
    std::map<std::string, at::Tensor> out;
    for (const auto& item : encoder.named_parameters()) out.emplace(item.key(), item.value());
    for (const auto& item : encoder.named_buffers()) out.emplace(item.key(), item.value());
    return out;
}

DType dtype_of(const at::Tensor& tensor, const std::string& name) {
    if (tensor.scalar_type() == at::kFloat) return DType::kF32;
    if (tensor.scalar_type() == at::kLong) return DType::kI64;
    if (tensor.scalar_type() == at::kDouble) return DType::kF64;
    throw Error(Code::kInternal, fmt::format("the tensor '{}' has a type that encoder files don't carry", name));
}

Json roles_of(const Encoder& encoder) {
    Json roles = Json::object();
    for (const auto& item : encoder.named_parameters()) {
        const torch_tier::ParameterRole role = encoder.role(item.key());
        Json entry = {{"kind", role.kind}, {"block", role.block}};
        if (!role.tied_to.empty()) entry["tied_to"] = role.tied_to;
        roles[item.key()] = std::move(entry);
    }
    return roles;
}

LoadedEncoder create(const ItemInfo& item, const Json& params) {
    CrashContext crash(item.name(), "");
    LoadedEncoder out;
    out.module = calling(item.name(), [&] { return factory_of(item).create(params.dump()); });
    out.card = {.encoder = item.name(), .config = params, .roles = roles_of(*out.module)};
    return out;
}

/// Throws where the tensor isn't one that `target` can be filled from.
void check_fits(const TensorInfo& tensor, const at::Tensor& target, const std::filesystem::path& file) {
    const Where where = {.file = file.string()};
    if (tensor.shape != target.sizes().vec())
        throw Error(Code::kRunFailed,
                    fmt::format("the tensor '{}' has the shape ({}), expected ({}) by the configuration", tensor.name,
                                fmt::join(tensor.shape, ", "), fmt::join(target.sizes().vec(), ", ")),
                    where);
    if (target.scalar_type() != at::kFloat && tensor.dtype != dtype_of(target, tensor.name))
        throw Error(Code::kRunFailed,
                    fmt::format("the tensor '{}' is {}, expected {}", tensor.name, to_string(tensor.dtype),
                                to_string(dtype_of(target, tensor.name))),
                    where);
}

/// Fills the module from the file, whose tensor names go through `translate`. A `File` is a SafetensorsFile or a
/// Checkpoint.
template <class File>
void fill(LoadedEncoder& encoder, const File& file) {
    std::map<std::string, at::Tensor> wanted = tensors_of(*encoder.module);
    std::vector<std::string> names, unknown, missing;
    for (const auto& [name, tensor] : wanted) names.push_back(name);
    std::map<std::string, std::string> filled;  // name → the file's tensor
    const at::NoGradGuard no_grad;
    for (const TensorInfo& tensor : file.tensors()) {
        const std::string name = encoder.module->translate(tensor.name);
        if (name.empty()) continue;
        const auto found = wanted.find(name);
        if (found == wanted.end()) {
            unknown.push_back(tensor.name + did_you_mean(name, names));
            continue;
        }
        check_fits(tensor, found->second, file.path());
        const auto [first, added] = filled.emplace(name, tensor.name);
        const at::Tensor target = added ? found->second : at::empty_like(found->second);
        if (target.scalar_type() == at::kFloat)
            file.read_floats(tensor, 0, {target.data_ptr<float>(), static_cast<size_t>(target.numel())});
        else
            file.read(tensor, 0, {static_cast<std::byte*>(target.data_ptr()), target.nbytes()});
        if (!added && std::memcmp(target.data_ptr(), found->second.data_ptr(), target.nbytes()) != 0)
            throw Error(Code::kRunFailed,
                        fmt::format("the tensors '{}' and '{}' should be one in {}, and their values differ",
                                    first->second, tensor.name, encoder.card.encoder),
                        {.file = file.path().string()});
    }
    for (const std::string& name : names)
        if (!filled.contains(name)) missing.push_back(name);
    auto few = [](const std::vector<std::string>& list) {
        return list.size() <= 5
                   ? fmt::format("{}", fmt::join(list, ", "))
                   : fmt::format("{} … ({} in all)", fmt::join(list.begin(), list.begin() + 5, ", "), list.size());
    };
    if (!missing.empty())
        throw Error(Code::kRunFailed,
                    fmt::format("lacks tensors that {} needs: {}{}", encoder.card.encoder, few(missing),
                                unknown.empty() ? "" : "; has ones that it doesn't know: " + few(unknown)),
                    {.file = file.path().string()});
    if (!unknown.empty())
        throw Error(Code::kRunFailed,
                    fmt::format("has tensors that {} doesn't know: {}", encoder.card.encoder, few(unknown)),
                    {.file = file.path().string()});
}

}  // namespace

LoadedEncoder make_encoder(const ItemInfo& item, const Json& params, uint64_t seed) {
    LoadedEncoder encoder = create(item, params);
    const at::NoGradGuard no_grad;
    encoder.module->initialise(seed);
    return encoder;
}

LoadedEncoder load_checkpoint(const ItemInfo& item, const Json& params, const std::filesystem::path& file,
                              const std::filesystem::path& config) {
    const EncoderCheckpoint source = open_encoder_checkpoint(item.name(), file, config);
    Json effective = params;
    if (source.card) {
        effective = source.card->config;
    } else {
        try {
            effective = calling(item.name(), [&] {
                return Json::parse(factory_of(item).from_checkpoint_config(source.config, params.dump()));
            });
        } catch (const Error& error) {
            throw error.within({.file = source.config_file.empty() ? file.string() : source.config_file.string()});
        }
    }
    LoadedEncoder encoder = create(item, effective);
    fill(encoder, source.file);
    return encoder;
}

LoadedEncoder load_encoder(const std::filesystem::path& file, const Registry& registry) {
    const SafetensorsFile source = SafetensorsFile::open(file);
    const EncoderCard card = EncoderCard::from(source);
    LoadedEncoder encoder = create(registry.require(card.encoder), card.config);
    fill(encoder, source);
    return encoder;
}

void save_encoder(const LoadedEncoder& encoder, const std::filesystem::path& file,
                  const std::map<std::string, std::string>& metadata) {
    std::vector<SafetensorsWriter::Tensor> announced;
    const std::map<std::string, at::Tensor> tensors = tensors_of(*encoder.module);
    for (const auto& [name, tensor] : tensors)
        announced.push_back({name, dtype_of(tensor, name), tensor.sizes().vec()});
    std::map<std::string, std::string> all = encoder.card.to_metadata();
    all.insert(metadata.begin(), metadata.end());
    SafetensorsWriter writer(file, announced, all);
    for (const auto& [name, tensor] : tensors) {
        const at::Tensor dense = tensor.detach().contiguous();
        writer.write(name, 0, {static_cast<const std::byte*>(dense.data_ptr()), dense.nbytes()});
    }
    writer.finish();
}

}  // namespace biophony
