// Activation checkpointing (Chen et al. 2016, arXiv 1604.06174) for blocks of encoders: the forward pass keeps a
// block's inputs alone, the backward pass computes the block again.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace biophony::encoders {

namespace detail {

using Tensors = std::vector<at::Tensor>;
using Block = std::function<at::Tensor(const Tensors&)>;

/// The state of LibTorch's generator for CPUs.
inline at::Tensor random_state() {
    at::Generator generator = at::detail::getDefaultCPUGenerator();
    const std::scoped_lock lock(generator.mutex());
    return generator.get_state();
}
inline void set_random_state(const at::Tensor& state) {
    at::Generator generator = at::detail::getDefaultCPUGenerator();
    const std::scoped_lock lock(generator.mutex());
    generator.set_state(state);
}

/// While one lives, the generator goes on from `state`; afterwards from where it was.
class RandomFrom {
public:
    explicit RandomFrom(const at::Tensor& state) : before_(random_state()) { set_random_state(state); }
    ~RandomFrom() { set_random_state(before_); }
    RandomFrom(const RandomFrom&) = delete;
    RandomFrom& operator=(const RandomFrom&) = delete;

private:
    at::Tensor before_;
};

struct AutocastState {
    at::DeviceType device;
    bool enabled;
    at::ScalarType type;

    static AutocastState now(at::DeviceType device) {
        return {device, at::autocast::is_autocast_enabled(device), at::autocast::get_autocast_dtype(device)};
    }
    void set() const {
        at::autocast::set_autocast_enabled(device, enabled);
        at::autocast::set_autocast_dtype(device, type);
    }
};

/// While one lives, autocast is as `state` says and remembers no casts: those of a pass without gradients have no
/// history, and a later pass must not find them.
class AutocastAs {
public:
    explicit AutocastAs(const AutocastState& state)
        : before_(AutocastState::now(state.device)), cached_(at::autocast::is_autocast_cache_enabled()) {
        state.set();
        at::autocast::set_autocast_cache_enabled(false);
    }
    ~AutocastAs() {
        before_.set();
        at::autocast::set_autocast_cache_enabled(cached_);
    }
    AutocastAs(const AutocastAs&) = delete;
    AutocastAs& operator=(const AutocastAs&) = delete;

private:
    AutocastState before_;
    bool cached_;
};

/// What the way back needs besides the tensors; travels in the autograd context.
struct Recipe : torch::CustomClassHolder {
    Recipe(Block run, size_t count, const AutocastState& cast)
        : block(std::move(run)), inputs(count), autocast(cast), random(random_state()) {}
    Block block;
    size_t inputs;  ///< how many of the saved tensors are the block's inputs; the others are its parameters
    AutocastState autocast;
    at::Tensor random;
};

struct Checkpoint : torch::autograd::Function<Checkpoint> {
    /// `tensors`: the block's inputs, then its parameters. Without gradients here, as LibTorch calls it.
    static at::Tensor forward(torch::autograd::AutogradContext* context, const Block& block, size_t inputs,
                              at::TensorList tensors) {
        const auto recipe = c10::make_intrusive<Recipe>(block, inputs, AutocastState::now(tensors[0].device().type()));
        context->saved_data["recipe"] = at::IValue::make_capsule(recipe);
        context->save_for_backward(tensors.vec());
        const AutocastAs autocast(recipe->autocast);
        return block({tensors.begin(), tensors.begin() + static_cast<ptrdiff_t>(inputs)});
    }

    static Tensors backward(torch::autograd::AutogradContext* context, const Tensors& gradients) {
        TORCH_CHECK(!at::GradMode::is_enabled(), "a checkpointed block has no second derivative");
        const auto recipe = c10::static_intrusive_pointer_cast<Recipe>(context->saved_data["recipe"].toCapsule());
        const Tensors saved = context->get_saved_variables();
        Tensors inputs, sources, out(2);  // no gradients of the block and of the count
        for (size_t i = 0; i < saved.size(); ++i) {
            at::Tensor tensor = saved[i];
            if (i < recipe->inputs) {
                tensor = tensor.detach().set_requires_grad(tensor.requires_grad());
                inputs.push_back(tensor);
            }
            if (tensor.requires_grad()) sources.push_back(tensor);
        }
        at::Tensor result;
        {
            const at::AutoGradMode gradients_on(true);
            const RandomFrom random(recipe->random);
            const AutocastAs autocast(recipe->autocast);
            result = recipe->block(inputs);
        }
        const Tensors found =
            torch::autograd::grad({result}, sources, gradients, std::nullopt, false, /*allow_unused=*/true);
        auto next = found.begin();
        for (const at::Tensor& tensor : saved) out.push_back(tensor.requires_grad() ? *next++ : at::Tensor());
        return out;
    }
};

}  // namespace detail

/// block(inputs), with the block's activations computed again on the way back instead of kept: from the same state of
/// LibTorch's generator (so that dropout drops the same) and of autocast. Values and gradients are those of the plain
/// call, bit by bit where the block uses each parameter once. `block` takes a const std::vector<at::Tensor>&, returns
/// one tensor and outlives the graph; it must read everything that carries a gradient from `inputs` (whose first is
/// defined, others may be undefined) or from `parameters`: the gradient of anything else is lost. Without gradients,
/// or where nothing needs one, this is the plain call. There is no second derivative.
template <class F>
at::Tensor checkpointed(F block, const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& parameters) {
    // Autograd takes defined tensors only.
    detail::Tensors tensors;
    std::vector<size_t> places;
    for (size_t i = 0; i < inputs.size(); ++i) {
        if (!inputs[i].defined()) continue;
        tensors.push_back(inputs[i]);
        places.push_back(i);
    }
    tensors.insert(tensors.end(), parameters.begin(), parameters.end());
    bool needed = false;
    for (const at::Tensor& tensor : tensors) needed = needed || tensor.requires_grad();
    if (!needed || !at::GradMode::is_enabled()) return block(inputs);
    const size_t given = places.size();
    const detail::Block run = [block = std::move(block), places = std::move(places),
                               count = inputs.size()](const detail::Tensors& defined) {
        detail::Tensors all(count);
        for (size_t i = 0; i < places.size(); ++i) all[places[i]] = defined[i];
        return block(all);
    };
    return detail::Checkpoint::apply(run, given, at::TensorList(tensors));
}

}  // namespace biophony::encoders
