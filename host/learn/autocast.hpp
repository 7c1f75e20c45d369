// Forward passes in bfloat16 while one lives.
#pragma once

#include <ATen/autocast_mode.h>

namespace biophony {

/// Turns LibTorch's autocast on for the CPU, if asked to, and off again.
class Autocast {
public:
    explicit Autocast(bool on) : on_(on) {
        if (!on_) return;
        at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
        at::autocast::set_autocast_enabled(at::kCPU, true);
    }
    ~Autocast() {
        if (!on_) return;
        at::autocast::clear_cache();
        at::autocast::set_autocast_enabled(at::kCPU, false);
    }
    Autocast(const Autocast&) = delete;
    Autocast& operator=(const Autocast&) = delete;

private:
    bool on_;
};

}  // namespace biophony
