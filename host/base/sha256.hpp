// SHA-256 by OpenSSL's libcrypto, which uses the processor's own instructions for it.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace biophony {

class Sha256 {
public:
    Sha256();
    ~Sha256();
    Sha256(Sha256&&) noexcept;
    Sha256& operator=(Sha256&&) noexcept;
    void update(const void* data, size_t bytes);
    void update(std::string_view text) { update(text.data(), text.size()); }
    /// 64 lower-case hex digits. Ends the computation.
    std::string hex();

private:
    struct State;
    std::unique_ptr<State> state_;
};

std::string sha256_hex(std::string_view bytes);
/// Of a file's content; throws Error(kRunFailed) where it can't be read.
std::string sha256_file(const std::filesystem::path& path);

}  // namespace biophony
