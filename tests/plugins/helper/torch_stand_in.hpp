// The torch library's part in tests of tier T: an ABI block that is a text.
#pragma once

#include <string>
#include <string_view>

#include "plugins/registry.hpp"
#include "zoo.hpp"

inline biophony::TorchHooks torch_stand_in() {
    return {.open_torch = [] {},
            .abi_mismatch = [](std::string_view section) -> std::string {
                // A C string literal: its final zero is in the section.
                while (!section.empty() && section.back() == '\0') section.remove_suffix(1);
                if (section == ZOO_RIGHT_ABI) return {};
                return "found " + std::string(section) + ", expected " ZOO_RIGHT_ABI;
            }};
}
