#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "app/command.hpp"
#include "base/files.hpp"
#include "base/nearest.hpp"
#include "tasks/node_types.hpp"
#include "tasks/torch_runtime.hpp"

namespace biophony::app {

void require_other_file(const char* option, const std::filesystem::path& out, const std::filesystem::path& other,
                        const char* what) {
    if (out.empty() || other.empty()) return;
    std::error_code ignored;
    // Absolute first: of a relative path that begins with nothing that there is, the rest stays relative.
    const auto whole = [&](const std::filesystem::path& path) {
        return std::filesystem::weakly_canonical(std::filesystem::absolute(path), ignored);
    };
    if (std::filesystem::equivalent(out, other, ignored) || whole(out) == whole(other))
        throw Error(Code::kInvalid, fmt::format("{}: '{}' is {}, expected another file", option, out.string(), what));
}

bool parse(const std::vector<std::string>& arguments, const char* usage, const char* summary,
           const options::options_description& described, const options::positional_options_description& positional,
           options::variables_map& values) {
    options::options_description all("Options");
    all.add(described);
    all.add_options()("help,h", "this text");
    try {
        options::store(options::command_line_parser(arguments).options(all).positional(positional).run(), values);
        if (values.count("help") > 0) {
            fmt::print("Usage: biophony {}\n\n{}\n\n", usage, summary);
            options::options_description shown("Options");
            for (const auto& option : all.options())
                if (!option->long_name().starts_with("_")) shown.add(option);
            std::ostringstream text;
            text << shown;
            fmt::print("{}", text.str());
            return false;
        }
        options::notify(values);
    } catch (const options::unknown_option& error) {
        std::vector<std::string> names;
        for (const auto& option : all.options())
            if (!option->long_name().starts_with("_")) names.push_back("--" + option->long_name());
        throw Error(Code::kInvalid, fmt::format("unknown option '{}'{}\nUsage: biophony {}", error.get_option_name(),
                                                did_you_mean(error.get_option_name(), names), usage));
    } catch (const options::required_option&) {
        throw Error(Code::kInvalid, fmt::format("an argument is missing\nUsage: biophony {}", usage));
    } catch (const options::error& error) {
        throw Error(Code::kInvalid, fmt::format("{}\nUsage: biophony {}", error.what(), usage));
    }
    return true;
}

void add_plugin_options(options::options_description& described) {
    described.add_options()("plugin-path", options::value<std::vector<std::string>>()->value_name("DIR")->composing(),
                            "look for plugins here first; may be given several times");
}

Registry make_registry(const options::variables_map& values, bool probe) {
    std::vector<fs::path> given;
    if (values.count("plugin-path") > 0)
        for (const std::string& folder : values["plugin-path"].as<std::vector<std::string>>())
            given.emplace_back(folder);
    return Registry(plugin_folders(given), probe);
}

namespace {

void add_pipeline_options(options::options_description& described) {
    described.add_options()("_file", options::value<std::string>()->required(), "");
    described.add_options()("set", options::value<std::vector<std::string>>()->value_name("NAME=VALUE")->composing(),
                            "override params.NAME, axes.NAME or NODE.PARAMETER; the value is JSON, or else text");
    described.add_options()("params", options::value<std::vector<std::string>>()->value_name("FILE")->composing(),
                            "a JSON object laid over the pipeline's params (its key \"axes\" over the axes); paths in "
                            "it are relative to it");
}

void add_run_options(options::options_description& described) {
    described.add_options()(
        "store", options::value<std::string>()->value_name("DIR"),
        "where results are kept and looked up; $BIOPHONY_STORE, else biophony/store in the user's cache folder");
    described.add_options()("threads", options::value<int>()->value_name("N"),
                            "compute threads; results of torch nodes belong to a number of threads; all cores, at most "
                            "16, where it isn't given");
    described.add_options()("no-cache", "make every result again");
}

}  // namespace

void add_slice_options(options::options_description& described) {
    using Texts = std::vector<std::string>;
    described.add_options()(
        "to", options::value<Texts>()->value_name("NODE")->composing(),
        "this node and what it needs; an id, or a name for all its nodes; may be given several times");
    described.add_options()("from", options::value<Texts>()->value_name("NODE")->composing(),
                            "this node and what depends on it; with --to what lies between");
    described.add_options()("only", options::value<Texts>()->value_name("NODE")->composing(), "this node alone");
}

Slice slice_of(const options::variables_map& values) {
    const auto texts = [&](const char* name) {
        return values.count(name) > 0 ? values[name].as<std::vector<std::string>>() : std::vector<std::string>();
    };
    return {.to = texts("to"), .from = texts("from"), .only = texts("only")};
}

bool parse_pipeline(const std::vector<std::string>& arguments, const char* usage, const char* summary, bool runs,
                    options::variables_map& values, const options::options_description& more) {
    options::options_description described;
    add_pipeline_options(described);
    if (runs) add_run_options(described);
    described.add(more);
    add_plugin_options(described);
    options::positional_options_description positional;
    positional.add("_file", 1);
    if (more.find_nothrow("_second", false) != nullptr) positional.add("_second", 1);
    return parse(arguments, usage, summary, described, positional, values);
}

namespace {

/// A file that the command line names: what is wrong with it is the command line's fault.
std::string read_named_file(const std::string& file) try { return read_file(file); } catch (const Error& error) {
    throw Error(Code::kInvalid, error.message(), error.where());
}

}  // namespace

Graph load_pipeline(const options::variables_map& values, const Registry& registry, int& status,
                    std::vector<NodeNote>* notes) {
    Overrides overrides;
    overrides.working_folder = fs::current_path();
    std::vector<Diagnostic> problems;
    if (values.count("params") > 0)
        for (const std::string& file : values["params"].as<std::vector<std::string>>())
            overrides.params_files.push_back(JsonText::parse(read_named_file(file), file, problems));
    if (values.count("set") > 0)
        for (const std::string& text : values["set"].as<std::vector<std::string>>())
            overrides.set.push_back(parse_set(text));

    const std::string file = values["_file"].as<std::string>();
    std::string text = read_named_file(file);
    Graph graph;
    if (problems.empty()) graph = make_graph(std::move(text), file, overrides, node_types(), registry, problems);
    if (problems.empty()) {
        GraphDescription described = describe_graph(graph, registry);
        problems = std::move(described.problems);
        if (notes != nullptr) *notes = std::move(described.notes);
    }
    sort_problems(problems);
    if (!problems.empty()) {
        print_problems(problems, values);
        // A missing plugin and a file that can't be used have a status of their own, unless the pipeline is wrong, too.
        status = static_cast<int>(code_of(problems));
    }
    return graph;
}

void print_json(const Json& value, int indent) {
    fmt::print("{}\n", value.dump(indent, ' ', false, Json::error_handler_t::replace));
}

void add_format_option(options::options_description& described) {
    described.add_options()("format", options::value<std::string>()->value_name("text|json")->default_value("text"),
                            "for people, or one JSON value for programs");
}

std::string format_of(const options::variables_map& values) {
    const std::string format = values["format"].as<std::string>();
    const std::vector<std::string> known = {"text", "json"};
    if (std::find(known.begin(), known.end(), format) == known.end())
        throw Error(Code::kInvalid,
                    with_nearest(fmt::format("--format: found '{}', expected text or json", format), format, known));
    return format;
}

fs::path store_of(const options::variables_map& values) {
    if (values.count("store") > 0) return values["store"].as<std::string>();
    const char* store = std::getenv("BIOPHONY_STORE");
    return store != nullptr && *store != 0 ? fs::path(store) : cache_folder() / "store";
}

RunOptions run_options(const options::variables_map& values, const std::vector<std::string>& command_line) {
    RunOptions run;
    run.out = values.count("out") > 0 ? fs::path(values["out"].as<std::string>())
                                      : fs::path("runs") / fs::path(values["_file"].as<std::string>()).stem();
    run.store = store_of(values);
    const int threads = values.count("threads") > 0
                            ? values["threads"].as<int>()
                            : static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u));
    if (threads < 1 || threads > 1024)
        throw Error(Code::kInvalid, fmt::format("--threads: found {}, expected a number from 1 to 1024", threads));
    run.threads = static_cast<unsigned>(threads);
    run.use_cache = values.count("no-cache") == 0;
    run.host = {
        .version = BPH_VERSION, .libtorch = std::string(libtorch_version()), .cpu_class = std::string(cpu_class())};
    // Settings by which users hold LibTorch and its libraries to other instructions change results, so they count.
    for (const char* name :
         {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"})
        if (const char* value = std::getenv(name)) run.host.cpu_class += fmt::format(" {}={}", name, value);
    run.cancel = &cancel;
    run.command_line = command_line;
    return run;
}

void leave(const Error& error) {
    std::fflush(stdout);
    fmt::print(stderr, "biophony: {}\n", error.what());
    std::fflush(stderr);
    std::_Exit(static_cast<int>(error.code()));
}

namespace {

Json record_of(const Diagnostic& problem) {
    const char* code = "invalid";
    switch (problem.code) {
        case Code::kRunFailed: code = "run failed"; break;
        case Code::kPlugin: code = "plugin"; break;
        case Code::kCancelled: code = "cancelled"; break;
        case Code::kInternal: code = "internal"; break;
        case Code::kInvalid: break;
    }
    Json out = {{"code", code}, {"message", problem.message.text}};
    if (!problem.message.found.empty()) out["found"] = problem.message.found;
    if (!problem.message.expected.empty()) out["expected"] = problem.message.expected;
    if (!problem.message.nearest.empty()) out["nearest"] = problem.message.nearest;
    if (!problem.where.file.empty()) out["file"] = problem.where.file;
    if (problem.where.line > 0) out["line"] = problem.where.line;
    if (problem.where.column > 0) out["column"] = problem.where.column;
    if (!problem.where.pointer.empty()) out["pointer"] = problem.where.pointer;
    if (!problem.where.node.empty()) out["node"] = problem.where.node;
    return out;
}

}  // namespace

bool wants_json(const options::variables_map& values) {
    return values.count("format") > 0 && values["format"].as<std::string>() == "json";
}

Json check_report(const std::vector<Diagnostic>& problems, const std::vector<NodeNote>& notes,
                  const options::variables_map& values) {
    Json out = {{"format", "biophony-check/0"},
                {"file", values["_file"].as<std::string>()},
                {"ok", problems.empty()},
                {"problems", Json::array()},
                {"notes", Json::array()}};
    for (const Diagnostic& problem : problems) out["problems"].push_back(record_of(problem));
    for (const NodeNote& note : notes) {
        out["notes"].push_back(record_of(note.what));
        out["notes"].back().erase("code");
    }
    return out;
}

void print_problems(const std::vector<Diagnostic>& problems, const options::variables_map& values) {
    if (wants_json(values)) return print_json(check_report(problems, {}, values), 2);
    constexpr size_t kMostShown = 100;
    for (size_t i = 0; i < std::min(problems.size(), kMostShown); ++i) fmt::print(stderr, "{}\n", problems[i].text());
    if (problems.size() > kMostShown) fmt::print(stderr, "… and {} more\n", problems.size() - kMostShown);
    fmt::print(stderr, "biophony: {} problem{}\n", problems.size(), problems.size() == 1 ? "" : "s");
}

}  // namespace biophony::app
