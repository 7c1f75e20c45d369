// biophony merge: a base and experts, as files, into one file.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <thread>

#include "app/command.hpp"
#include "app/console.hpp"
#include "base/files.hpp"
#include "plugins/merger_traits.hpp"
#include "tasks/torch_runtime.hpp"
#include "weights/geometry_observer.hpp"
#include "weights/merge.hpp"

namespace biophony::app {

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// What --method and --set say, in their order: a list of {"use", "with"} as a pipeline has it.
Json read_methods(const std::vector<std::string>& arguments, const options::options_description& described) {
    Json out = Json::array();
    std::vector<std::string> early;
    auto set = [&](const std::string& text) {
        auto [name, value] = parse_set(text);
        Json& with = out.back()["with"];
        if (with.contains(name))
            throw Error(Code::kInvalid,
                        fmt::format("--set {} is given twice for {}", name, out.back()["use"].get<std::string>()));
        with[name] = std::move(value);
    };
    options::options_description all;
    all.add(described);
    all.add_options()("help,h", "");
    for (const auto& option : options::command_line_parser(arguments).options(all).run().options) {
        if (option.string_key != "method" && option.string_key != "set") continue;
        for (const std::string& value : option.value) {
            if (option.string_key == "method")
                out.push_back(
                    {{"use", value.starts_with("merger:") ? value : "merger:" + value}, {"with", Json::object()}});
            else if (out.empty())
                early.push_back(value);
            else
                set(value);
        }
    }
    if (!early.empty() && out.size() > 1)
        throw Error(Code::kInvalid,
                    fmt::format("--set {} stands before the first --method, expected behind the one that it is for",
                                early.front()));
    for (const std::string& text : early) set(text);
    return out;
}

/// The stages of the methods; prints all problems and sets `status` where there are any.
std::vector<MergeStage> stages_of(const Json& methods, const Registry& registry, size_t experts, int& status) {
    std::vector<MergeStage> stages;
    std::vector<Diagnostic> problems;
    for (const Json& method : methods) {
        std::vector<Diagnostic> found;
        std::vector<MergeStage> part = read_stages(Json::array({method}), registry, "", found);
        stages.insert(stages.end(), part.begin(), part.end());
        for (Diagnostic& problem : found) {
            problem.where = {.plugin = method["use"],
                             .parameter = problem.where.pointer.starts_with("/0/with/")
                                              ? problem.where.pointer.substr(8)
                                              : std::string()};
            problems.push_back(std::move(problem));
        }
    }
    size_t bad = 0;
    if (problems.empty())
        if (const std::string what = check_stages(stages, bad, experts); !what.empty())
            problems.push_back({Code::kInvalid, {}, "--method: " + what});
    if (!problems.empty()) {
        print_problems(problems, {});
        const bool only_plugins =
            std::all_of(problems.begin(), problems.end(), [](const Diagnostic& p) { return p.code == Code::kPlugin; });
        status = static_cast<int>(only_plugins ? Code::kPlugin : Code::kInvalid);
    }
    return stages;
}

std::optional<DType> dtype_of(const std::string& name) {
    if (name == "base") return {};
    if (name == "float32") return DType::kF32;
    if (name == "float16") return DType::kF16;
    if (name == "bfloat16") return DType::kBF16;
    throw Error(Code::kInvalid, fmt::format("--dtype: found '{}', expected base, float32, float16 or bfloat16", name));
}

std::string bytes_text(uint64_t bytes) {
    return bytes >= 1'000'000'000 ? fmt::format("{:.2f} GB", static_cast<double>(bytes) * 1e-9)
                                  : fmt::format("{:.1f} MB", static_cast<double>(bytes) * 1e-6);
}

/// GB/s at which one thread reads the beginning of a file, so that a plan can say how long reading will take.
double reading_rate(const fs::path& path) {
    const SafetensorsFile file = SafetensorsFile::open(path);
    std::vector<std::byte> buffer(1 << 20);
    uint64_t done = 0;
    const auto begin = Clock::now();
    for (const TensorInfo& tensor : file.tensors())
        for (uint64_t at = 0; at < tensor.bytes() && done < (64U << 20);) {
            const auto part = std::span(buffer).first(std::min<uint64_t>(buffer.size(), tensor.bytes() - at));
            file.read(tensor, at, part);
            at += part.size();
            done += part.size();
        }
    return static_cast<double>(done) * 1e-9 / std::max(since(begin), 1e-9);
}

void print_plan(const MergePlan& plan) {
    fmt::print("base       {}{}\n", plan.base.string(),
               plan.encoder ? "" : ", no encoder file: roles and blocks of its tensors are read from shapes and names");
    for (const MergePlan::Expert& expert : plan.experts)
        fmt::print("expert     {}, a {}, {}\n", expert.path.string(),
                   expert.kind == MergePlan::Kind::kTaskVector ? "task vector" : "checkpoint",
                   bytes_text(expert.bytes));
    fmt::print("stages     {}\n", fmt::join(plan.stages, " → "));
    std::map<std::pair<std::string, std::string>, std::pair<size_t, uint64_t>> groups;
    for (const MergeTensor& tensor : plan.tensors) {
        auto& [count, elements] = groups[{
            tensor.role.empty() ? "(no role)" : tensor.role,
            tensor.dtype == tensor.out ? std::string(to_string(tensor.dtype))
                                       : fmt::format("{} → {}", to_string(tensor.dtype), to_string(tensor.out))}];
        ++count;
        elements += tensor.elements;
    }
    fmt::print("tensors    {} to merge, {} elements; {} copied from the base\n", plan.tensors.size(),
               plan.totals.elements, plan.copied);
    for (const auto& [group, sums] : groups)
        fmt::print("             {:<12} {:<10} {:>5} tensors {:>12} elements\n", group.first, group.second, sums.first,
                   sums.second);
    const double rate = reading_rate(plan.experts.front().path);
    fmt::print("passes     {} over the inputs: {} read, {} written\n", plan.passes, bytes_text(plan.totals.bytes_read),
               bytes_text(plan.totals.bytes_written));
    fmt::print("memory     {} at most for {} threads, tiles of {} elements\n", bytes_text(plan.memory), plan.threads,
               plan.tile_elements);
    fmt::print("time       from {:.1f} s on: reading and writing at {:.1f} GB/s a thread, as a read just now was\n",
               static_cast<double>(plan.totals.bytes_read + plan.totals.bytes_written) * 1e-9 / rate / plan.threads,
               rate);
    fmt::print("result     {}, not written (--dry-run)\n", plan.out.string());
}

/// Names for diagnostics: the files' names without what is after the last dot, or the paths where two are the same.
std::vector<std::string> names_of(const std::vector<fs::path>& experts) {
    std::vector<std::string> names;
    for (const fs::path& expert : experts) names.push_back(expert.stem().string());
    if (std::set<std::string>(names.begin(), names.end()).size() == names.size()) return names;
    for (size_t i = 0; i < experts.size(); ++i) names[i] = experts[i].string();
    return names;
}

/// Where diagnostics go to. Throws unless both can be written and are none of the merge's files.
struct GeometryFiles {
    fs::path json, csv;

    GeometryFiles(const std::string& path, const MergePlan& plan)
        : json(path), csv(fs::path(path).replace_extension(".csv")) {
        auto refuse = [](const fs::path& file, const std::string& what) {
            throw Error(Code::kInvalid, "--geometry: " + what, {.file = file.string()});
        };
        if (json.extension() != ".json")
            refuse(json, "expected a name that ends in .json, beside which the .csv is written");
        std::error_code ignored;
        for (const fs::path& file : {json, csv}) {
            if (!fs::is_directory(fs::absolute(file).parent_path(), ignored)) refuse(file, "its folder isn't there");
            auto is = [&](const fs::path& other) {
                return fs::equivalent(file, other, ignored) ||
                       fs::absolute(file).lexically_normal() == fs::absolute(other).lexically_normal();
            };
            if (is(plan.base)) refuse(file, "is the base");
            if (is(plan.out)) refuse(file, "is the result, expected another file");
            for (const MergePlan::Expert& expert : plan.experts)
                if (is(expert.path)) refuse(file, "is an expert");
            if (fs::exists(file, ignored) && !fs::is_regular_file(file, ignored)) refuse(file, "is no file");
        }
    }
};

/// How the result was made, for its metadata: enough to make it again, and to see whether an input is the same.
Json provenance(const MergePlan& plan, uint64_t seed) {
    auto digest = [](const std::string& known) { return known.empty() ? Json() : Json(known); };
    Json experts = Json::array();
    for (const MergePlan::Expert& expert : plan.experts)
        experts.push_back({{"file", expert.path.filename().string()},
                           {"kind", expert.kind == MergePlan::Kind::kTaskVector ? "task vector" : "checkpoint"},
                           {"bytes", expert.bytes},
                           {"digest", digest(expert.digest)}});
    const Json base = {{"file", plan.base.filename().string()}, {"digest", digest(plan.base_digest)}};
    return {{"program", fmt::format("biophony {}", BPH_VERSION)}, {"base", base}, {"experts", experts}, {"seed", seed}};
}

}  // namespace

int merge_command(const std::vector<std::string>& arguments) {
    options::options_description described;
    described.add_options()(
        "method", options::value<std::vector<std::string>>()->value_name("ID")->composing()->required(),
        "a merge method or stage: average, task-arithmetic, ties.global, dare, …; several run one "
        "after the other. biophony plugins lists them, biophony inspect merger:ID tells parameters");
    described.add_options()("set", options::value<std::vector<std::string>>()->value_name("NAME=VALUE")->composing(),
                            "a parameter of the --method before it; the value is JSON, or else text");
    described.add_options()("base", options::value<std::string>()->value_name("FILE")->required(),
                            "what the experts were made from: an encoder file, or any safetensors file");
    described.add_options()(
        "expert", options::value<std::vector<std::string>>()->value_name("FILE")->composing()->required(),
        "a task vector, or a checkpoint with the base's tensors; several, in the order that counts");
    described.add_options()("out", options::value<std::string>()->value_name("FILE")->required(),
                            "the result; whole, or not there");
    described.add_options()(
        "dtype", options::value<std::string>()->value_name("TYPE")->default_value("base"),
        "of the result: base (each tensor as in the base), float32, float16 or bfloat16; everything "
        "is computed in float32 and rounded once");
    described.add_options()("seed", options::value<uint64_t>()->value_name("N")->default_value(0),
                            "of methods that draw random numbers");
    described.add_options()("threads", options::value<int>()->value_name("N"),
                            "results don't depend on it; all cores, at most 16, where it isn't given");
    described.add_options()("geometry", options::value<std::string>()->value_name("FILE.json"),
                            "write norms, cosines, signs and overlap of the experts, and what chance would give, for "
                            "the whole, each role and each block, there and into FILE.csv; the more pairs, the longer "
                            "it takes");
    described.add_options()("memory", options::value<double>()->value_name("MB"),
                            "for buffers of all threads; what one tensor of all experts takes is always taken. 160, "
                            "and 512 where a method must see tensors whole, if it isn't given");
    described.add_options()("hash",
                            "write the digests of base and experts into the result's metadata; what isn't remembered "
                            "of another merge is read once more for it");
    described.add_options()("dry-run", "check everything, say what would be done, and write nothing");
    add_plugin_options(described);
    options::variables_map values;
    if (!parse(arguments, "merge --method ID [--set NAME=VALUE]… --base FILE --expert FILE… --out FILE [options]",
               "Merges fine-tuned copies of one model into one file, at the speed of memory. Names, shapes and types "
               "must agree; everything that can be wrong is told before a byte is written.",
               described, {}, values))
        return 0;

    std::vector<fs::path> experts;
    for (const std::string& path : values["expert"].as<std::vector<std::string>>()) experts.emplace_back(path);
    const Json methods = read_methods(arguments, described);
    const Registry registry = make_registry(values);
    int status = 0;
    const std::vector<MergeStage> stages = stages_of(methods, registry, experts.size(), status);
    if (status != 0) return status;
    const bool linalg = std::any_of(stages.begin(), stages.end(),
                                    [](const MergeStage& stage) { return merger_traits(*stage.item).needs_linalg; });
    const bool torch =
        std::any_of(stages.begin(), stages.end(), [](const MergeStage& stage) { return stage.item->tier == "T"; });
    if (linalg || torch) restart_for_torch();

    const int threads = values.count("threads") > 0
                            ? values["threads"].as<int>()
                            : static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1U, 16U));
    if (threads < 1 || threads > 1024)
        throw Error(Code::kInvalid, fmt::format("--threads: found {}, expected a number from 1 to 1024", threads));
    Json run = Json::array();
    for (const MergeStage& stage : stages) {
        run.push_back({{"use", stage.item->name()}, {"with", stage.params}});
        if (stage.preset != nullptr) run.back()["preset"] = stage.preset->name();
    }
    const std::vector<std::string> names = names_of(experts);
    GeometryObserver observer(names,
                              values.count("geometry") > 0 ? std::nullopt : std::optional(GeometryObserver::kCheap));
    Console console;
    MergeOptions options{
        .threads = static_cast<unsigned>(threads),
        .seed = values["seed"].as<uint64_t>(),
        .dtype = dtype_of(values["dtype"].as<std::string>()),
        .progress = &console,
        .cancel = &cancel,
        .metadata = {{"biophony.stages", canonical(run)}, {"biophony.stages_asked", canonical(methods)}}};
    if (linalg) options.linalg = libtorch_version() == "none" ? nullptr : torch_runtime().linalg();
    options.observer = &observer;
    options.digests = values.count("hash") > 0;
    if (values.count("memory") > 0) {
        const double megabytes = values["memory"].as<double>();
        if (!(megabytes >= 1 && megabytes <= 1e9))
            throw Error(Code::kInvalid, fmt::format("--memory: found {}, expected a number from 1 on", megabytes));
        options.memory = static_cast<uint64_t>(megabytes * 1e6);
    }
    options.log = [&](int level, const std::string& text) {
        console.clear();
        if (level >= BPH_LOG_WARNING) fmt::print(stderr, "{}\n", text);
    };

    const auto begin = Clock::now();
    MergePlan plan =
        plan_merge(values["base"].as<std::string>(), experts, stages, values["out"].as<std::string>(), options);
    std::optional<GeometryFiles> geometry;
    if (values.count("geometry") > 0) geometry.emplace(values["geometry"].as<std::string>(), plan);
    if (values.count("dry-run") > 0) {
        plan.tell_log();
        print_plan(plan);
        if (geometry)
            fmt::print("geometry   {} and {}, not written\n", geometry->json.string(), geometry->csv.string());
        return 0;
    }
    if (!plan.encoder)
        fmt::print(stderr, "{} is no encoder file: roles and blocks of its tensors are read from shapes and names\n",
                   plan.base.string());
    plan.metadata["biophony.merge"] = canonical(provenance(plan, options.seed));
    GraphNode node;
    node.id = "merge";
    console.begin(1);
    console.node_started(0, node);
    MergeReport report;
    try {
        report = run_merge(plan);
    } catch (...) {
        console.clear();
        throw;
    }
    console.clear();
    const double seconds = since(begin);
    std::vector<std::string> used;
    for (const MergeStage& stage : stages) used.push_back(stage.item->id);
    const std::vector<std::string> warnings = observer.warnings(used);
    for (const std::string& warning : warnings) fmt::print(stderr, "{}\n", warning);
    if (!warnings.empty() && observer.every() > 1)
        fmt::print(stderr, "(seen in a sample of the weights; --geometry FILE.json measures them all)\n");
    if (geometry) {
        write_json(geometry->json, observer.geometry().to_json(warnings));
        write_file_atomically(geometry->csv, observer.geometry().to_csv());
    }
    const uint64_t bytes = report.bytes_read + report.bytes_written;
    fmt::print("{}: {} experts, {} tensors, {} read and written in {} pass{}, {:.2f} s, {:.2f} GB/s\n",
               plan.out.string(), plan.experts.size(), report.tensors, bytes_text(bytes), plan.passes,
               plan.passes == 1 ? "" : "es", seconds, static_cast<double>(bytes) * 1e-9 / std::max(seconds, 1e-9));
    return 0;
}

}  // namespace biophony::app
