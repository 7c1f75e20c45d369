// Mutates JSON as JSON, so that what comes out is mostly JSON again and reaches what lies behind the parser: values and
// keys are exchanged, copied, dropped, or become words of the text or edges. Half of the time, and for what is no JSON,
// the bytes are changed. Included by one fuzzer's file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "base/json.hpp"

/// libFuzzer's; where a fuzzer is replayed without it, there is none.
extern "C" __attribute__((weak)) size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace {

class JsonMutator {
public:
    JsonMutator(nlohmann::ordered_json& root, uint64_t seed) : root_(root), random_(seed) { collect(root_); }

    void change() {
        Value& value = *values_[below(values_.size())];
        const Value other = *values_[below(values_.size())];
        switch (below(10)) {
            case 0: value = other; break;
            case 1: value = word(); break;
            case 2: value = edge(); break;
            case 3:
                if (value.is_string()) value = twisted(value.get<std::string>());
                break;
            case 4:
                if (value.is_structured() && !value.empty()) value.erase(place(value));
                break;
            case 5:
                if (value.is_array()) value.push_back(other);
                if (value.is_object()) value[word()] = other;
                break;
            case 6:  // another key for the same value
                if (value.is_object() && !value.empty()) {
                    const auto at = place(value);
                    const Value kept = *at;
                    const std::string key = below(2) == 0 ? word() : twisted(at.key());
                    value.erase(at);
                    value[key] = kept;
                }
                break;
            case 7: value = Value{{"param", word()}}; break;
            case 8:
                if (value.is_array())
                    value = value.empty() ? Value("*") : Value(value.front());
                else
                    value = Value::array({value});
                break;
            default:
                if (value.is_string()) value = value.get<std::string>() + word();
        }
    }

private:
    using Value = nlohmann::ordered_json;

    size_t below(size_t bound) { return random_() % bound; }
    Value::iterator place(Value& value) { return std::next(value.begin(), static_cast<long>(below(value.size()))); }

    void collect(Value& value) {
        values_.push_back(&value);
        if (value.is_string()) words_.push_back(value.get<std::string>());
        if (value.is_object())
            for (const auto& [key, inner] : value.items()) words_.push_back(key);
        if (value.is_structured())
            for (Value& inner : value) collect(inner);
    }

    std::string word() {
        static const std::vector<std::string> kWords = {
            "use",       "in",         "with",      "seed",    "notes",   "param",  "params", "axes", "nodes",
            "biophony",  "data",       "base",      "vectors", "encoder", "{a}",    "x[*]",   "x[a]", "x[*,a]",
            "with[*,0]", "with[a]",    "{{",        "*",       "file",    "stages", "table",  "head", "scores",
            "experts",   "checkpoint", "fine-tune", "a.b",     "0",       "/~1~0"};
        return below(3) == 0 || words_.empty() ? kWords[below(kWords.size())] : words_[below(words_.size())];
    }

    Value edge() {
        static const std::vector<Value> kEdges = {
            nullptr, true, 0,     1,    -1, INT64_MAX,       UINT64_MAX,     0.5,
            1e300,   -0.0, 10001, 1e-9, "", Value::object(), Value::array(), "\xc3\xa9",
            " "};
        return kEdges[below(kEdges.size())];
    }

    /// As references and templates are: a part in brackets or braces becomes another.
    std::string twisted(const std::string& text) {
        static const std::vector<std::string> kParts = {"[*]", "[",   "]", "[a]", ",",     "*", "{",
                                                        "}",   "{a}", ":", ".",   "[0,*]", "-"};
        std::string out = text;
        const size_t at = below(out.size() + 1);
        switch (below(4)) {
            case 0: out.insert(at, kParts[below(kParts.size())]); break;
            case 1: out.erase(at, 1 + below(4)); break;
            case 2:
                if (const size_t open = out.find_first_of("[{"); open != std::string::npos)
                    out.replace(open + 1, std::min(out.find_first_of("]},", open), out.size()) - open - 1, word());
                break;
            default: out.insert(at, word());
        }
        // Halves of characters would be changed back into something else.
        return Value::accept(Value(out).dump(-1, ' ', false, Value::error_handler_t::replace)) &&
                       Value(out).dump(-1, ' ', false, Value::error_handler_t::ignore).size() >= out.size()
                   ? out
                   : text;
    }

    Value& root_;
    std::mt19937_64 random_;
    std::vector<Value*> values_;
    std::vector<std::string> words_;
};

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
    const std::string_view all(reinterpret_cast<const char*>(data), size);
    const size_t end = std::min({all.find("\n--set "), all.find("\n--params "), all.size()});
    const bool in_bytes = LLVMFuzzerMutate != nullptr && seed % 2 == 0;
    auto json = in_bytes ? nlohmann::ordered_json(nlohmann::ordered_json::value_t::discarded)
                         : nlohmann::ordered_json::parse(all.substr(0, end), nullptr, false);
    if (json.is_discarded()) return LLVMFuzzerMutate == nullptr ? size : LLVMFuzzerMutate(data, size, most);
    for (unsigned times = 1 + seed / 2 % 3, i = 0; i < times; ++i) JsonMutator(json, seed + i).change();
    const std::string out =
        json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + std::string(all.substr(end));
    if (out.size() > most) return size;
    std::memcpy(data, out.data(), out.size());
    return out.size();
}
