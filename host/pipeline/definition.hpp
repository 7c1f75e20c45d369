// A pipeline as it stands in its file with the command line's changes put in, and where each value came from.
//
// Used by the checker (graph.cpp) only. An *address* is a JSON pointer into this document: "/params/recipe".
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "pipeline/graph.hpp"

namespace biophony {

/// Something from the command line that took the place of a value of the text.
struct Override {
    std::string name;              ///< what messages call it: "--set params.recipe", or the --params file
    std::filesystem::path folder;  ///< its relative paths are resolved against this one
    std::string hidden;            ///< front of the address that the file itself doesn't have: "/params"
    bool operator==(const Override&) const = default;
};

class Definition {
public:
    /// Parses the text, checks the top-level keys and puts in what changes `params` and `axes`. Problems go to
    /// `problems`, which must outlive this.
    Definition(std::string text, const std::filesystem::path& file, const Overrides& overrides,
               std::vector<Diagnostic>& problems);

    /// False where there is nothing to go on with: no JSON, or no object.
    bool usable() const { return usable_; }
    const Json& json() const { return json_; }
    /// The value at an address, or null.
    const Json* find(const std::string& address) const;
    /// Where the value at an address was written: place in the file, or the option of the command line.
    Where where(const std::string& address) const;
    /// Against which folder a relative path at this address is resolved.
    std::filesystem::path folder(const std::string& address) const;

    void problem(const std::string& address, std::string message, Code code = Code::kInvalid);
    void problem(Where where, std::string message, Code code = Code::kInvalid);

    /// Puts `value` at `address` + `path`, making objects on the way. Array items go by number. Returns what is wrong,
    /// empty where it worked.
    std::string put(const std::string& address, const std::vector<std::string>& path, Json value, Override by);
    /// Copies a value and where it came from; nothing where there is none.
    void copy(const std::string& from, const std::string& to);
    /// Changes a value without changing where it came from; for paths made absolute.
    void rewrite(const std::string& address, Json value);
    /// True for {"param": …} with no other key: it stands for the value of that param.
    static bool is_param(const Json& value) {
        return value.is_object() && value.size() == 1 && value.contains("param");
    }

private:
    void check_top_level();
    void put_params_file(const std::filesystem::path& path, const Json& value, const std::filesystem::path& working);
    const Override* override_of(const std::string& address) const;

    std::vector<Diagnostic>& problems_;
    JsonText text_;
    Json json_;
    std::filesystem::path folder_;
    std::map<std::string, Override> overrides_;  ///< address → what stands there; covers what lies below
    bool usable_ = false;
};

/// True for [A-Za-z_][A-Za-z0-9_.-]*, what stems and axes look like.
bool is_name(std::string_view text);
/// The keys of an object in order.
std::vector<std::string> keys_of(const Json& object);
/// Splits at every `separator`; "" gives one empty part.
std::vector<std::string> split(std::string_view text, char separator);
/// The keys of a JSON pointer, unescaped.
std::vector<std::string> steps_of(std::string_view pointer);
/// "a", "a or b", "a, b or c".
std::string any_of(const std::vector<std::string>& names);
/// The nearest of the keys of `map` to the pointer that have a value, from the pointer itself upwards; end() if none.
template <class Map>
typename Map::const_iterator nearest_enclosing(const Map& map, std::string_view pointer) {
    for (std::string_view at = pointer;; at = at.substr(0, at.rfind('/'))) {
        if (const auto found = map.find(std::string(at)); found != map.end()) return found;
        if (at.empty()) return map.end();
    }
}

}  // namespace biophony
