// A pipeline as it stands in its file with the command line's changes put in, and where each value came from.
//
// Used by the checker (graph.cpp) only. An *address* is a JSON pointer into this document: "/params/recipe".
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/json.hpp"
#include "pipeline/graph.hpp"

namespace biophony {

/// Something that took the place of a value of the text: from the command line, or from another file.
struct Override {
    std::string name;                      ///< what messages call it: "--set params.recipe", or the file
    std::filesystem::path folder;          ///< its relative paths are resolved against this one
    std::string hidden;                    ///< front of the address that the file itself doesn't have: "/params"
    std::shared_ptr<const JsonText> text;  ///< the file, null for --set
    bool operator==(const Override&) const = default;
};

/// A node that stands in place of one that uses a pipeline of `pipelines`.
struct Inlined {
    std::string user;      ///< key of the node that uses it: "one[taxon]"
    std::string stem;      ///< "one"
    std::string pipeline;  ///< "specialist"
    std::string name;      ///< what it is called inside: "expert"
    bool output = false;   ///< others may refer to it
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

    /// A problem that was told before, in the same words and place, isn't told again; of a pipeline that several nodes
    /// use, it is told for the first of them.
    void problem(const std::string& address, Message message, Code code = Code::kInvalid);
    void problem(Where where, Message message, Code code = Code::kInvalid);
    /// True where nobody would read more; what is left to check may be left.
    bool too_many_problems() const { return told_.size() >= kMostProblems; }
    static constexpr size_t kMostProblems = 1000;

    /// Puts `value` at `address` + `path`, making objects on the way. Array items go by number. Returns what is wrong,
    /// empty where it worked.
    std::string put(const std::string& address, const std::vector<std::string>& path, Json value, Override by);
    /// Copies a value and where it came from; nothing where there is none.
    void copy(const std::string& from, const std::string& to);
    /// True where a file stands in the place of its name.
    bool is_from_file(const std::string& address) const {
        const auto found = overrides_.find(address);
        return found != overrides_.end() && found->second.text != nullptr;
    }
    /// Puts a pipeline's file in the place of its name at `address`. Problems with the file are told.
    void read_file_at(const std::string& address, const std::string& name);
    /// Takes node `user` away and puts `nodes` in its place. `from`: address → where that was written, covering what
    /// lies below.
    void inline_nodes(const std::string& user, Json nodes, std::map<std::string, Inlined> inlined,
                      const std::map<std::string, std::string>& from);
    /// Takes away a top-level key, and nodes that could not be put in the place of `user`: references to them are
    /// no problem of their own.
    void drop(const std::string& top_level_key) { json_.erase(top_level_key); }
    void drop_broken(const std::string& user);
    /// The pipeline's node behind a node's key, or null.
    const Inlined* inlined(const std::string& key) const {
        const auto found = inlined_.find(key);
        return found == inlined_.end() ? nullptr : &found->second;
    }
    const std::map<std::string, Inlined>& all_inlined() const { return inlined_; }
    /// Stems of nodes that should have been replaced by a pipeline's, after a problem.
    const std::set<std::string>& broken_users() const { return broken_users_; }
    /// The list of an axis as the file has it, without the command line's changes; null if there is none.
    Json original_axis(const std::string& name) const;

    /// Changes a value without changing where it came from; for paths made absolute.
    void rewrite(const std::string& address, Json value);
    /// True for {"param": …} with no other key: it stands for the value of that param.
    static bool is_param(const Json& value) {
        return value.is_object() && value.size() == 1 && value.contains("param");
    }

private:
    void check_top_level();
    void put_params_file(const JsonText& file, const std::filesystem::path& working);
    const Override* override_of(const std::string& address) const;
    /// The address at which the value at `address` was written.
    std::string origin(std::string address) const;

    std::vector<Diagnostic>& problems_;
    JsonText text_;
    Json json_;
    std::filesystem::path folder_;
    std::string shown_folder_;                   ///< as the user wrote it, for names of files beside
    std::map<std::string, Override> overrides_;  ///< address → what stands there; covers what lies below
    std::map<std::string, std::string> moved_;   ///< address → address in the text; covers what lies below
    std::map<std::string, Inlined> inlined_;     ///< by key of the node
    std::set<std::string> broken_users_;
    std::unordered_set<std::string> told_;
    bool usable_ = false;
};

/// True for [A-Za-z_][A-Za-z0-9_.-]*, what stems and axes look like.
bool is_name(std::string_view text);
/// The same in words, for messages.
inline constexpr std::string_view kNameRule = "letters, digits, '_', '-' and '.', with a letter or '_' in front";
/// The keys of an object in order.
std::vector<std::string> keys_of(const Json& object);
/// Splits at every `separator`; "" gives one empty part.
std::vector<std::string> split(std::string_view text, char separator);
/// The keys of a JSON pointer, unescaped.
std::vector<std::string> steps_of(std::string_view pointer);
/// "file not found: clps.csv; did you mean 'clips.csv'?", of what is in its folder.
Message no_such_file(const std::filesystem::path& missing);
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
