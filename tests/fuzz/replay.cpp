// Runs a fuzzer's corpus, then mutations of it: seeded, so that a failure comes back, and without any fuzzing engine.
//
//     fuzz_NAME CORPUS MUTATIONS SEED
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
/// Fuzzers may have one, for what they read.
extern "C" __attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed);

namespace {

using Bytes = std::vector<uint8_t>;

long running = -1;

/// Says which input it was; async-signal-safe enough for a process that is dying.
void on_crash(int number) {
    char text[100];
    const int length =
        std::snprintf(text, sizeof text, "the input that crashed: mutation %ld, signal %d\n", running, number);
    if (::write(2, text, static_cast<size_t>(length)) < 0) ::_exit(1);
    ::signal(number, SIG_DFL);
    ::raise(number);
}

class Mutator {
public:
    Mutator(const std::vector<Bytes>& corpus, uint64_t seed) : corpus_(corpus), random_(seed) {}

    Bytes next() {
        Bytes out = corpus_[below(corpus_.size())];
        if (LLVMFuzzerCustomMutator != nullptr && below(4) != 0) {
            const size_t size = out.size();
            out.resize(size + 1024);
            out.resize(LLVMFuzzerCustomMutator(out.data(), size, out.size(), static_cast<unsigned>(random_())));
            return out;
        }
        for (size_t i = 1 + below(4); i-- > 0;) change(out);
        return out;
    }

private:
    // std::mt19937_64 gives the same numbers everywhere; the distributions of the standard library don't.
    size_t below(size_t bound) { return bound == 0 ? 0 : random_() % bound; }

    void change(Bytes& bytes) {
        const size_t at = below(bytes.size());
        if (bytes.empty()) return bytes.push_back(static_cast<uint8_t>(below(256)));
        const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
        const size_t length = 1 + below(std::min<size_t>(bytes.size() - at, 32));
        switch (below(8)) {
            case 0: *place ^= static_cast<uint8_t>(1U << below(8)); break;
            case 1: *place = static_cast<uint8_t>(below(256)); break;
            case 2: {  // numbers at the edges
                constexpr uint64_t kEdges[] = {0,      1,          0x7f,       0x80,       0xff,      0x7fff,
                                               0xffff, 0x7fffffff, 0x80000000, 0xffffffff, INT64_MAX, UINT64_MAX};
                const uint64_t value = kEdges[below(std::size(kEdges))];
                const size_t width = std::min<size_t>(size_t{1} << below(4), bytes.size() - at);
                std::memcpy(&*place, &value, width);
                break;
            }
            case 3: bytes.erase(place, place + static_cast<std::ptrdiff_t>(length)); break;
            case 4: {  // a piece again
                const Bytes piece(place, place + static_cast<std::ptrdiff_t>(length));
                bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(below(bytes.size())), piece.begin(),
                             piece.end());
                break;
            }
            case 5: {  // a piece of another
                const Bytes& other = corpus_[below(corpus_.size())];
                if (other.empty()) break;
                const size_t from = below(other.size()), count = 1 + below(std::min<size_t>(other.size() - from, 64));
                bytes.insert(place, other.begin() + static_cast<std::ptrdiff_t>(from),
                             other.begin() + static_cast<std::ptrdiff_t>(from + count));
                break;
            }
            case 6: bytes.resize(at); break;
            default: {  // two pieces change places
                const size_t from = below(bytes.size()),
                             count = std::min({length, bytes.size() - from, bytes.size() - at});
                std::swap_ranges(place,
                                 place + static_cast<std::ptrdiff_t>(from > at   ? std::min(count, from - at)
                                                                     : from < at ? std::min(count, at - from)
                                                                                 : 0),
                                 bytes.begin() + static_cast<std::ptrdiff_t>(from));
            }
        }
    }

    const std::vector<Bytes>& corpus_;
    std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "Usage: %s CORPUS MUTATIONS SEED\n", argv[0]);
        return 2;
    }
    for (const int number : {SIGABRT, SIGSEGV, SIGFPE, SIGBUS, SIGILL}) ::signal(number, on_crash);
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(argv[1])) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    std::vector<Bytes> corpus;
    for (const std::filesystem::path& file : files) {
        std::ifstream in(file, std::ios::binary);
        corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
        LLVMFuzzerTestOneInput(corpus.back().data(), corpus.back().size());
    }
    if (corpus.empty()) {
        std::fprintf(stderr, "%s: the corpus is empty\n", argv[1]);
        return 1;
    }
    const long mutations = std::atol(argv[2]);
    Mutator mutator(corpus, std::strtoull(argv[3], nullptr, 10));
    for (running = 0; running < mutations; ++running) {
        const Bytes input = mutator.next();
        LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    std::printf("%zu files, %ld mutations, seed %s\n", corpus.size(), mutations, argv[3]);
    return 0;
}
