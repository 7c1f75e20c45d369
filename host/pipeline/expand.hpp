// From the nodes of the text to one node per combination of axis values, with params and axis values put in.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "pipeline/definition.hpp"

namespace biophony {

/// One value of an axis.
struct AxisValue {
    Json value;           ///< a string or a number
    std::string text;     ///< as it stands in ids
    std::string address;  ///< where it was written
};

struct Axis {
    std::string name;
    std::vector<AxisValue> values;
    std::unordered_map<std::string, size_t> place;  ///< text → among `values`
    bool broken = false;  ///< a problem was told; what uses the axis is left out without a word
};

/// An entry of "exclude": nodes that have all these axes, with one of the values of each, aren't made.
struct Exclusion {
    std::string address;
    std::vector<std::pair<const Axis*, std::vector<bool>>> axes;  ///< by axis: the values, as they stand in it
    bool idle = false;  ///< a problem was told, or its values are on no axis as the command line has it
};

/// A node of the text: "expert[taxon]".
struct NodeKey {
    std::string key;
    std::string stem;
    std::string address;
    std::vector<const Axis*> axes;  ///< in the order of the brackets
    bool broken = false;            ///< as for Axis
    size_t first = 0, count = 0;    ///< its nodes among Expansion::instances; the last axis changes quickest
    /// For each combination of values, the last axis changing quickest: the node, or kExcluded + the exclusion's
    /// number.
    std::vector<size_t> grid;
    static constexpr size_t kExcluded = size_t{1} << 32;

    std::string names_of_axes() const;  ///< "taxon, method"
};

/// One node: "expert[bird]".
struct Instance {
    size_t key = 0;  ///< among Expansion::keys
    std::string id;
    std::map<std::string, const AxisValue*, std::less<>> axes;  ///< the values of its axes, by axis name
};

struct Expansion {
    std::map<std::string, Axis> axes;
    std::vector<Exclusion> exclusions;
    std::vector<NodeKey> keys;  ///< in the order of the text
    std::vector<Instance> instances;
    std::unordered_map<std::string, size_t> by_stem;  ///< among `keys`

    const NodeKey* key_of_stem(const std::string& stem) const;
    /// The fields "with[…]" of an instance's node that are laid over its "with", in the order in which they are: those
    /// with more '*' first. The order of those with equally many means nothing: they may not set the same.
    std::vector<std::string> overlays_of(const Definition& definition, const Instance& instance) const;
    std::vector<std::string> stems() const;
    /// Whether a node uses a pipeline of "pipelines".
    bool uses_pipelines(const Definition& definition) const;
    /// "/exclude/0 in line 7", for an excluded place of a NodeKey::grid.
    std::string name_of_exclusion(const Definition& definition, size_t grid) const;
};

/// How many axes "with[bird,*]" leaves open; −1 where it doesn't stand for this node of `key`.
int open_axes(const std::string& field, const NodeKey& key, const Instance& instance);

/// Reads `axes`, `exclude` and the keys of `nodes`.
Expansion expand_axes(Definition& definition);

/// Tells exclusions that exclude nothing, and keys of which nothing is left.
void check_exclusions(Definition& definition, const Expansion& expansion);

/// Checks the overrides that name nodes, and puts them in the definition: into the node's "with", or "with[bird]" for
/// one node of several. `users`: only those that belong to nodes which use a pipeline. Those in `done` are left out,
/// and what was put in for users is added to it.
void put_node_overrides(Definition& definition, const Expansion& expansion, const Overrides& overrides, bool users,
                        std::set<std::string>& done);

/// A value that was put together from several places.
struct Traced {
    Json value;
    std::map<std::string, std::string, std::less<>> from;  ///< pointer in value → address; covers what lies below
    bool too_large = false;                                ///< params that grow without end

    std::string address(std::string_view pointer) const;
};

/// The value at `address` (`missing` if there is none) with each {"param": …} replaced, and with {axis} in strings
/// replaced by the values of `node`; where that is null, strings stay as they are. Returns false after a problem was
/// told. `used_by` is the address that messages name for strings that stand elsewhere.
bool substitute(Definition& definition, const std::string& address, const Json& missing, const Instance* node,
                const std::string& used_by, Traced& out);

/// What two fields "with[…]" set that leave equally many axes open must be said by a more particular one. False after a
/// problem. `laid`: what is laid over a node, by field.
bool check_overlays(Definition& definition, const NodeKey& key, const Instance& instance,
                    const std::vector<std::pair<std::string, Traced>>& laid);

/// Tells a field "with[…]" that belongs to no node of `key`. True for those that are fine.
bool check_overlay_field(Definition& definition, const Expansion& expansion, const NodeKey& key,
                         const std::string& field);

/// The name of a pipeline where a node uses one, "pipeline:NAME"; else empty.
std::string pipeline_used(const Definition& definition, const std::string& address_of_node);

/// Lays `over` over `base`, name by name inside of objects.
void lay_over(Traced& base, const Traced& over);

/// " (used by /nodes/a/with/x)" where a value isn't written at its place of use, else empty.
std::string used_note(const std::string& address, const std::string& used_by);
/// The text with { and } doubled, so that substitution gives it back; inside of objects and arrays too.
Json braces_escaped(Json value);

}  // namespace biophony
