// Writing an encoder, tier T, draft. Interface id "biophony.torch.encoder/0".
//
// An encoder is a torch::nn::Module that turns waves into features and features into frames. The host owns everything
// else: files, batches, heads, losses, optimisers, devices, threads. A checkpoint is the module's named parameters and
// buffers plus the configuration it was built from; both travel in a safetensors file.
//
// Libraries with an encoder match the host's LibTorch and compiler field by field (biophony/torch/abi.hpp); a mismatch
// is refused before any of their code runs. libstdc++ only.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "biophony/plugin.hpp"
#include "biophony/torch/abi.hpp"

#define BPH_TORCH_ENCODER_V0 "biophony.torch.encoder/0"

namespace biophony::torch_tier {

/// What the host must know before it cuts a window.
struct EncoderInfo {
    double sample_rate = 16000;    ///< Hz of the waves that features() takes
    double window_seconds = 5;     ///< the window it works best on; clips are cut or filled to it
    int64_t min_samples = 400;     ///< a shorter wave has no frame
    int64_t width = 0;             ///< D, the size of a frame
    int64_t depth = 0;             ///< L, the number of blocks
    double frames_per_second = 0;  ///< of the output of frames(); tokens of one instant count each
    int64_t bands = 1;  ///< tokens of one instant, one per frequency band, low first: frame = instant*bands + band
    bool masks_padding = true;  ///< false: it has no padding masks; the host gives it batches of one length only
    int64_t classes = 0;        ///< of its own classifier, see predictions(); 0 = it has none
};

/// How a merge stage may treat a parameter. `kind` is one of "matrix", "convolution", "fused_qkv", "norm", "bias",
/// "embedding", "gain", "tied", "excluded".
struct ParameterRole {
    std::string kind = "matrix";
    int block = -1;       ///< 0-based block of the stack, or -1 outside of it
    std::string tied_to;  ///< for "tied": the parameter that carries the value
};

/// T = number of frames, D = width, L = depth. Not thread-safe; the host calls one instance from one thread at a time.
class Encoder : public torch::nn::Module {
public:
    ~Encoder() override;

    virtual EncoderInfo info() const = 0;

    /// The front end: waves (B, N) float32 in [-1, 1] at info().sample_rate → features (B, …) float32. Without
    /// gradient, and equal for equal waves, so that the host may keep them. Throws where N < info().min_samples.
    virtual at::Tensor features(const at::Tensor& waves) const = 0;

    /// features (B, …) → frames (B, T, D). `padding`, where given, is a bool mask over samples (B, N), true = padded.
    virtual at::Tensor frames(const at::Tensor& features, const std::optional<at::Tensor>& padding) = 0;

    /// All hidden layers, L + 1 tensors (B, T, D): the input of the first block, then the output of each.
    virtual std::vector<at::Tensor> layers(const at::Tensor& features, const std::optional<at::Tensor>& padding) = 0;

    /// Which frames of an input are padding, (B, T) bool, true = padded; `padding` as above.
    virtual at::Tensor frame_padding(const at::Tensor& features, const at::Tensor& padding) const = 0;

    /// Clip-wise logits (B, classes) of the encoder's own published classifier; `padding` (B, T) as frame_padding()
    /// says.
    virtual at::Tensor predictions([[maybe_unused]] const at::Tensor& frames,
                                   [[maybe_unused]] const std::optional<at::Tensor>& padding) {
        throw sdk::Error("this encoder has no classifier of its own", BPH_UNSUPPORTED);
    }

    /// With `on`, training keeps only each block's input and computes the block again on the way back: less memory for
    /// about a third more time, the same values and gradients. Returns whether it does what was asked.
    virtual bool checkpoint_activations(bool on) { return !on; }

    /// Fills all parameters with fresh random values from `seed` alone, as the encoder's paper initialises them.
    virtual void initialise(uint64_t seed) = 0;

    /// The role of one of named_parameters().
    virtual ParameterRole role(std::string_view parameter) const = 0;

    /// The name here of a tensor of a public checkpoint; empty = known and not needed (a predictor that isn't asked
    /// for, a recomputed buffer). Copies of a tied tensor all have the name of the one that is kept; the host checks
    /// that they are equal. Names that this doesn't know come back as they are.
    virtual std::string translate(std::string_view checkpoint_name) const = 0;

    // Optional: what masked prediction needs. An encoder has both or neither.

    /// What each frame shows: features (B, …) → (B, T, P), the values of the features that lie under it.
    virtual at::Tensor tiles([[maybe_unused]] const at::Tensor& features) const {
        throw sdk::Error("this encoder doesn't say what its frames show", BPH_UNSUPPORTED);
    }

    /// The frames (B, K, D) of inputs of which only these are seen; `kept` (B, K) int64, ascending in each row. With
    /// all T kept this is frames().
    virtual at::Tensor frames_of([[maybe_unused]] const at::Tensor& features, [[maybe_unused]] const at::Tensor& kept) {
        throw sdk::Error("this encoder can't run on some of its frames alone", BPH_UNSUPPORTED);
    }
};

/// Makes encoders of one kind. One instance per library, for the life of the process.
class EncoderFactory {
public:
    virtual ~EncoderFactory();
    /// `params` fits the manifest's schema. Throws sdk::Error.
    virtual std::shared_ptr<Encoder> create(const std::string& params_json) const = 0;
    /// The parameters that a checkpoint's own configuration stands for (the `cfg` of a published file), laid over
    /// `params_json`; what the checkpoint says wins. Returns JSON text.
    virtual std::string from_checkpoint_config(const std::string& config_json,
                                               const std::string& params_json) const = 0;
};

/// The table behind BPH_TORCH_ENCODER_V0.
struct EncoderTable {
    uint32_t struct_size;
    const EncoderFactory* factory;
};

}  // namespace biophony::torch_tier

/// Defines the ABI block; once per library with an item of tier T, outside any namespace. Also anchors the vtables.
#define BIOPHONY_TORCH_PLUGIN()                                                              \
    extern "C" __attribute__((used, retain, section(BPH_ABI_SECTION), visibility("hidden"))) \
    const biophony::torch_tier::AbiBlock bph_abi_block = biophony::torch_tier::this_abi();   \
    biophony::torch_tier::Encoder::~Encoder() = default;                                     \
    biophony::torch_tier::EncoderFactory::~EncoderFactory() = default;

namespace biophony::sdk {

namespace detail {
template <class F>
struct EncoderThunks {
    inline static const F factory{};
    inline static const torch_tier::EncoderTable table{sizeof(torch_tier::EncoderTable), &factory};
};
}  // namespace detail

/// The list entry of an encoder for BIOPHONY_PLUGIN. F derives from EncoderFactory and is default-constructed.
template <class F>
detail::Item encoder(std::string_view id) {
    return {id, BPH_TORCH_ENCODER_V0, &detail::EncoderThunks<F>::table};
}

}  // namespace biophony::sdk
