#include "audio/window.hpp"

namespace biophony {

std::vector<float> window_repeated(const std::vector<float>& clip, size_t offset, size_t length) {
    std::vector<float> window(length, 0.0F);
    if (clip.empty()) return window;
    size_t at = offset % clip.size();
    for (float& sample : window) {
        sample = clip[at];
        if (++at == clip.size()) at = 0;
    }
    return window;
}

}  // namespace biophony
