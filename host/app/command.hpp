// The program's commands, one file each.
#pragma once

#include <boost/program_options.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/json.hpp"
#include "pipeline/describe.hpp"
#include "pipeline/graph.hpp"
#include "pipeline/plan.hpp"
#include "pipeline/run.hpp"
#include "plugins/registry.hpp"
#include "weights/checkpoint.hpp"

namespace biophony::app {

/// Returns the exit status; throws Error.
struct Command {
    const char* name;
    const char* summary;
    int (*run)(const std::vector<std::string>& arguments);
    bool hidden = false;
};

int plugins_command(const std::vector<std::string>& arguments);
int inspect_command(const std::vector<std::string>& arguments);
int check_command(const std::vector<std::string>& arguments);
int plan_command(const std::vector<std::string>& arguments);
int merge_command(const std::vector<std::string>& arguments);
int schema_command(const std::vector<std::string>& arguments);
int run_command(const std::vector<std::string>& arguments);
int run_node_command(const std::vector<std::string>& arguments);
int embed_command(const std::vector<std::string>& arguments);
int convert_command(const std::vector<std::string>& arguments);
int explain_command(const std::vector<std::string>& arguments);
int graph_command(const std::vector<std::string>& arguments);
int cache_command(const std::vector<std::string>& arguments);
int diff_command(const std::vector<std::string>& arguments);

/// For a command that will run torch code, before it does anything that counts: OpenMP and MKL read their settings when
/// their library is loaded, which is before main, so this starts the program once more with them set. Waiting threads
/// must not spin: two pools on few cores would eat each other. Returns in the program that was started so.
void restart_for_torch();

namespace options = boost::program_options;

/// Parses; throws Error(kInvalid) with the nearest option for an unknown one. Prints the help and returns false where
/// --help was given. `usage` is the line after "Usage: biophony ".
bool parse(const std::vector<std::string>& arguments, const char* usage, const char* summary,
           const options::options_description& described, const options::positional_options_description& positional,
           options::variables_map& values);

/// --plugin-path DIR, for every command that needs plugins.
void add_plugin_options(options::options_description& described);
Registry make_registry(const options::variables_map& values, bool probe = true);

/// parse() for a command that takes a pipeline: FILE, --set, --params, --plugin-path; where it asks for
/// results (`runs`), also --store, --threads and --no-cache. A second positional argument is there for a command that
/// has one in `more`, named
/// "_second".
bool parse_pipeline(const std::vector<std::string>& arguments, const char* usage, const char* summary, bool runs,
                    options::variables_map& values, const options::options_description& more = {});
/// --to, --from and --only.
void add_slice_options(options::options_description& described);
Slice slice_of(const options::variables_map& values);
/// --format text|json; format_of() throws Error(kInvalid) for another one.
void add_format_option(options::options_description& described);
std::string format_of(const options::variables_map& values);
/// Where results are kept: --store, else $BIOPHONY_STORE, else a folder in the user's cache folder.
std::filesystem::path store_of(const options::variables_map& values);
/// Reads, checks, expands and describes the pipeline. Prints all problems and sets `status` where there are any.
Graph load_pipeline(const options::variables_map& values, const Registry& registry, int& status,
                    std::vector<NodeNote>* notes = nullptr);

/// What --out and its like say.
RunOptions run_options(const options::variables_map& values, const std::vector<std::string>& command_line);

/// Throws Error(kInvalid) where `out`, which `option` names, is the file `other`, whatever either path looks like.
void require_other_file(const char* option, const std::filesystem::path& out, const std::filesystem::path& other,
                        const char* what);

/// An item as its manifest tells it, with name, library and build; a library with its state and items.
Json json_of(const ItemInfo& item);
Json json_of(const PluginFile& file);

/// One JSON value to standard output; what is no UTF-8 is replaced. `indent` −1 = on one line.
void print_json(const Json& value, int indent = 1);

/// What a checkpoint has: container, tensors, configuration, labels, and what is left aside.
void print_checkpoint(const Checkpoint& checkpoint);

/// Whether --format json was given.
bool wants_json(const options::variables_map& values);
/// What --format json prints; docs/formats/schemas/check.schema.json.
Json check_report(const std::vector<Diagnostic>& problems, const std::vector<NodeNote>& notes,
                  const options::variables_map& values);
/// Prints problems: one a line, and their number, to standard error; with --format json to standard output.
void print_problems(const std::vector<Diagnostic>& problems, const options::variables_map& values);

/// Tells the error and ends the process at once, whatever other threads do.
[[noreturn]] void leave(const Error& error);

/// Set by Ctrl-C and SIGTERM.
extern Cancel cancel;

}  // namespace biophony::app
