// Parameter schemas: the subset of JSON Schema that manifests use, checked by valijson, told in our words.
#pragma once

#include <filesystem>
#include <functional>

#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"

namespace biophony {

/// Checks `value` against `schema` (an object schema with "properties") and fills in missing defaults, nested objects
/// included. Unknown keys are errors with the nearest name, unless "additionalProperties" says otherwise. Problems are
/// appended with pointers below `pointer`; all of them, not just the first.
void apply_schema(const Json& schema, Json& value, std::string_view pointer, std::vector<Diagnostic>& problems);

/// Every string in `value` whose schema says "format": "path" and that is not absolute is resolved against the folder
/// that `base_of(pointer)` names. Items of arrays count.
void resolve_paths(const Json& schema, Json& value, std::string_view pointer,
                   const std::function<std::filesystem::path(std::string_view)>& base_of);

/// Pointers (below `pointer`) of all paths with "x-must-exist": true, with their values.
std::vector<std::pair<std::string, std::string>> paths_that_must_exist(const Json& schema, const Json& value,
                                                                       std::string_view pointer);

/// What is wrong with `value` by any JSON Schema (draft 7; "$ref" within it alone), with pointers; empty where it is
/// valid. For files; what people write is told by apply_schema() in better words.
std::vector<Diagnostic> problems_by_schema(const Json& schema, const Json& value);

/// "a number from 0 to 1", "one of \"a\", \"b\"": what a schema wants, for messages and help.
std::string expected_by(const Json& schema);

}  // namespace biophony
