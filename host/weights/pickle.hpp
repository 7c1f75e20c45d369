// Python pickles as data. A pickle is a program for a stack machine that may call anything Python can import; this
// reads it as the description of a value and never calls anything.
//
// What a call would have made becomes an object with the name of what was to be called, its arguments and its state. So
// a class that nobody here knows costs nothing as long as nobody asks for what it would have made. Some names are
// refused wherever they stand, getattr's result among them: modules and functions that start programs, run text as
// code, load code, or reach files and the network (os, subprocess, builtins.eval, …). They do no harm here; but no
// checkpoint needs them, the file was made to attack whoever loads it, and the user should hear that rather than get
// weights out of it. The opposite rule, refusing every name that isn't on a list, would turn away the optimizers,
// configurations and model classes that stand beside the weights in every second file.
//
// Opcodes of protocols 2 to 5 are read, except for the extension registry and out-of-band buffers, which no file can
// carry alone; the text opcodes of protocols 0 and 1 are refused by name: torch has never written them. The exception
// is INT, which Python 2 writes in protocol 2.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"

namespace biophony {

/// One pickle, read. Values refer to each other by number, so that a value may stand in several places, or inside of
/// itself: who walks them must bound depth and count. Nothing here recurses.
class Pickle {
public:
    using Id = uint32_t;
    static constexpr Id kNothing = UINT32_MAX;

    enum class Kind : uint8_t {
        kNone,
        kBool,
        kInteger,
        kBigInteger,
        kReal,
        kText,
        kBytes,
        kList,
        kTuple,
        kSet,
        kDict,
        kGlobal,
        kObject,
        kReference
    };
    struct Node {
        Kind kind = Kind::kNone;
        bool pairs =
            false;  ///< `items` are key, value, key, value, …: of a dict, and of an object that was filled as one
        int64_t integer = 0;  ///< of kBool and kInteger; of texts and bytes where they begin in the pool
        double real = 0;      ///< of kReal; of texts and bytes unused
        uint64_t length = 0;  ///< of kText, kBytes and kBigInteger (little-endian two's complement): bytes in the pool
        Id callable = kNothing;  ///< of kObject: what makes it, mostly a kGlobal; of kGlobal the text of the module
        Id arguments =
            kNothing;         ///< of kObject: a tuple; of kGlobal the text of the name; of kReference what it refers to
        Id state = kNothing;  ///< of kObject: what BUILD would have given it
        std::vector<Id> items;
    };

    /// Fills `out` with the bytes from `offset` on; only called within the bounds that read() got.
    using Source = std::function<void(uint64_t offset, std::span<std::byte> out)>;

    /// Reads the pickle that begins at `begin`; it may take all bytes before `end`. At most 256 MiB, four million
    /// values and sixteen million entries of lists and dictionaries, which is thousands of times what a checkpoint has.
    /// Throws Error(kRunFailed) with the byte where it leaves the format, or with the name that it asks for.
    static Pickle read(const Source& source, uint64_t begin, uint64_t end);

    /// The byte after the pickle.
    uint64_t end() const { return end_; }
    Id root() const { return root_; }
    size_t size() const { return nodes_.size(); }
    const Node& operator[](Id id) const { return nodes_[id]; }
    Kind kind(Id id) const { return id == kNothing ? Kind::kNone : nodes_[id].kind; }

    /// The bytes of a kText, kBytes or kBigInteger; empty for anything else.
    std::string_view text(Id id) const;
    /// "torch._utils._rebuild_tensor_v2" of a kGlobal, and of a kObject what makes it; empty for anything else.
    std::string name(Id id) const;
    /// The value under a text key in a dict, or in an object that was filled as one; kNothing where there is none.
    /// Looks at every entry.
    Id find(Id dict, std::string_view key) const;
    /// The value in the object's state: a dict, or the dict in the pair (dict, slots).
    Id state_dict(Id object) const;
    /// Argument `i` of an object; kNothing where there are fewer.
    Id argument(Id object, size_t i) const;

private:
    class Machine;
    std::vector<Node> nodes_;
    std::string pool_;
    Id root_ = kNothing;
    uint64_t end_ = 0;
};

}  // namespace biophony
