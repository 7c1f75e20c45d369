#include "golden.hpp"

#include <limits>
#include <set>

#include "weights/safetensors.hpp"

// The host's own copies of the vtables.
biophony::torch_tier::Encoder::~Encoder() = default;
biophony::torch_tier::EncoderFactory::~EncoderFactory() = default;

namespace golden {

File read(const std::string& name, const std::string& folder) {
    const auto source =
        biophony::SafetensorsFile::open(std::filesystem::path(BPH_SOURCE_DIR) / "tests/golden" / folder / name);
    File file;
    file.cfg = source.metadata("cfg");
    for (const biophony::TensorInfo& info : source.tensors()) {
        const at::ScalarType type = info.dtype == biophony::DType::kF32 ? at::kFloat : at::kByte;
        at::Tensor tensor = at::empty(info.shape, type);
        source.read(info, 0, {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()});
        file.tensors[info.name] = tensor;
    }
    return file;
}

std::shared_ptr<biophony::beats::Beats> encoder(const File& weights, const std::string& params_json) {
    const biophony::beats::BeatsFactory factory;
    auto made = factory.create(factory.from_checkpoint_config(weights.cfg, params_json));
    auto beats = std::dynamic_pointer_cast<biophony::beats::Beats>(made);
    const at::NoGradGuard no_grad;
    const auto parameters = beats->named_parameters();
    std::set<std::string> filled;
    for (const auto& [name, tensor] : weights.tensors) {
        const std::string translated = beats->translate(name);
        if (translated.empty()) continue;
        INFO(name);
        const at::Tensor* parameter = parameters.find(translated);
        REQUIRE(parameter != nullptr);
        REQUIRE(parameter->sizes() == tensor.sizes());
        at::Tensor target = *parameter;
        target.copy_(tensor);
        filled.insert(translated);
    }
    REQUIRE(filled.size() == parameters.size());
    beats->eval();
    return beats;
}

double difference(const at::Tensor& found, const at::Tensor& expected) {
    if (found.sizes() != expected.sizes()) return std::numeric_limits<double>::infinity();
    const double worst = (found.to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>();
    return std::isnan(worst) ? std::numeric_limits<double>::infinity() : worst;
}

bool same_filter_bank(const at::Tensor& found, const at::Tensor& expected) {
    if (found.sizes() != expected.sizes()) return false;
    const at::Tensor error = (found - expected).abs();
    const at::Tensor below = expected.amax(-1, true) - expected;
    const at::Tensor allowed = at::where(below <= 15, 3e-4, at::where(below <= 20, 1.2e-3, 0.09));
    const at::Tensor loud = error.masked_select(below <= 15);
    UNSCOPED_INFO("largest errors " << loud.max().item<float>() << " within 15 nats of the frame's maximum, "
                                    << error.max().item<float>() << " anywhere");
    return (error <= allowed).all().item<bool>() && loud.square().mean().sqrt().item<double>() < 1e-5;
}

}  // namespace golden
