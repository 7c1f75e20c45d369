#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <thread>

#include "app/command.hpp"
#include "app/console.hpp"
#include "base/nearest.hpp"
#include "tasks/embed.hpp"
#include "tasks/torch_runtime.hpp"
#include "weights/checkpoint.hpp"

namespace biophony::app {

namespace {

double seconds_of(const char* option, const std::string& text, const char* expected) {
    double value = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (problem != std::errc() || end != text.data() + text.size() || !std::isfinite(value) || value <= 0)
        throw Error(Code::kInvalid, fmt::format("{}: found '{}', expected {}", option, text, expected));
    return value;
}

int number_of(const options::variables_map& values, const char* option, int most) {
    const int value = values[option].as<int>();
    if (value < 1 || value > most)
        throw Error(Code::kInvalid, fmt::format("--{}: found {}, expected a number from 1 to {}", option, value, most));
    return value;
}

/// Where the output goes: refused here rather than when the work is done.
void require_file_name(const char* option, const fs::path& path) {
    std::error_code ignored;
    if (fs::is_directory(path, ignored))
        throw Error(Code::kInvalid, fmt::format("{}: '{}' is a folder, expected a file's name", option, path.string()));
}

EmbedOptions embed_options(const options::variables_map& values) {
    auto text = [&](const char* option) {
        return values.count(option) > 0 ? values[option].as<std::string>() : std::string();
    };
    EmbedOptions out;
    out.program_version = BPH_VERSION;
    out.encoder = text("encoder");
    if (!out.encoder.empty() && out.encoder.find(':') == std::string::npos) out.encoder = "encoder:" + out.encoder;
    if (!out.encoder.empty() && !out.encoder.starts_with("encoder:"))
        throw Error(Code::kInvalid,
                    fmt::format("--encoder: '{}' is no encoder, expected one, such as beats", out.encoder));
    out.checkpoint = text("checkpoint");
    if (out.checkpoint.empty() && out.encoder.empty())
        throw Error(Code::kInvalid,
                    "an encoder is missing: --checkpoint FILE, and --encoder ID where the file doesn't say");
    out.config = text("config");
    std::error_code ignored;
    for (const auto& [option, file] : {std::pair("--checkpoint", out.checkpoint), std::pair("--config", out.config)})
        if (!file.empty() && !fs::is_regular_file(file, ignored))
            throw Error(Code::kInvalid, fs::exists(file, ignored) ? "is no file" : "not found",
                        {.file = file.string(), .parameter = option});
    if (!out.config.empty() && (out.checkpoint.empty() || out.encoder.empty()))
        throw Error(Code::kInvalid, "--config: goes with --checkpoint and --encoder, whose configuration it has");

    const std::string window = text("window");
    if (!window.empty() && window != "whole")
        out.window_seconds = seconds_of("--window", window, "seconds above 0, or 'whole'");
    if (values.count("hop") > 0 && out.window_seconds == 0)
        throw Error(Code::kInvalid, "--hop says how far windows are apart; it needs --window SECONDS");
    out.hop_seconds =
        values.count("hop") > 0 ? seconds_of("--hop", text("hop"), "seconds above 0") : out.window_seconds;

    out.frames = values.count("frames") > 0;
    out.layers = values.count("layers") > 0;
    out.predictions = values.count("predictions") > 0;
    const std::vector<std::string> precisions = {"float32", "bf16"};
    const std::string precision = text("precision");
    if (std::find(precisions.begin(), precisions.end(), precision) == precisions.end())
        throw Error(Code::kInvalid,
                    with_nearest(fmt::format("--precision: found '{}', expected float32 or bf16", precision), precision,
                                 precisions));
    out.bfloat16 = precision == "bf16";
    out.batch = static_cast<size_t>(number_of(values, "batch", 4096));
    out.threads = values.count("threads") > 0 ? static_cast<unsigned>(number_of(values, "threads", 1024))
                                              : std::clamp(std::thread::hardware_concurrency(), 1u, 16u);

    const fs::path name = text("out");
    out.csv = text("csv");
    if (name.extension() == ".csv") {
        if (!out.csv.empty())
            throw Error(Code::kInvalid, "--out names a table already; --csv is for one beside a .safetensors file");
        if (out.frames || out.layers || out.predictions)
            throw Error(Code::kInvalid,
                        "a table holds clip embeddings alone; for --frames, --layers and --predictions write --out "
                        "FILE.safetensors");
        out.csv = name;
    } else if (name.extension() == ".safetensors") {
        out.out = name;
    } else {
        throw Error(Code::kInvalid,
                    fmt::format("--out: found '{}', expected a name that ends in .safetensors or .csv", name.string()));
    }
    require_file_name("--out", name);
    require_file_name("--csv", out.csv);
    out.inputs = find_sounds(values["_input"].as<std::vector<std::string>>());
    for (const auto& [option, output] : {std::pair("--out", out.out), std::pair("--csv", out.csv)}) {
        if (output.empty()) continue;
        require_other_file(option, output, out.checkpoint, "the checkpoint");
        require_other_file(option, output, out.config.empty() ? sidecar_config(out.checkpoint) : out.config,
                           "the configuration");
        for (const EmbedInput& input : out.inputs) require_other_file(option, output, input.path, "an input");
    }
    require_other_file("--csv", out.csv, out.out, "what --out names");
    return out;
}

}  // namespace

int embed_command(const std::vector<std::string>& arguments) {
    options::options_description described;
    auto add = described.add_options();
    auto word = [] { return options::value<std::string>(); };
    add("_input", options::value<std::vector<std::string>>()->required(), "");
    add("checkpoint", word()->value_name("FILE"),
        "the encoder's weights: a safetensors file, or a PyTorch one (.pt) as it is");
    add("config", word()->value_name("FILE"),
        "the encoder's configuration, a JSON file; else the checkpoint's own, else STEM.model_config.json beside it");
    add("encoder", word()->value_name("ID"),
        "the encoder, such as beats; not needed where the checkpoint is an encoder file of this program");
    add("out", word()->value_name("FILE")->required(),
        "what to write: NAME.safetensors, or NAME.csv for a table of clip embeddings");
    add("csv", word()->value_name("FILE"), "also write that table here");
    add("window", word()->value_name("SECONDS"),
        "a row for each window of so many seconds; 'whole', the default, makes one row for a whole file");
    add("hop", word()->value_name("SECONDS"),
        "from one window's start to the next; the window's length where not given");
    add("frames", "also the encoder's frames, which the clip embedding is the mean of");
    add("layers", "also the frames of every layer; computes twice");
    add("predictions", "also the logits of the checkpoint's own classifier");
    add("precision", word()->value_name("TYPE")->default_value("float32"),
        "float32, or bf16: faster on processors that have it, good to two or three digits");
    add("batch", options::value<int>()->value_name("N")->default_value(8), "windows at a time, from any files");
    add("threads", options::value<int>()->value_name("N"),
        "compute threads; all cores, at most 16, where it isn't given; one more decodes");
    add_plugin_options(described);
    options::positional_options_description positional;
    positional.add("_input", -1);
    options::variables_map values;
    if (!parse(
            arguments, "embed --checkpoint FILE [--encoder ID] AUDIO|FOLDER… --out FILE [options]",
            "Makes embeddings of sound files: one vector for each file or window, its encoder frames' mean. Folders\n"
            "are searched for sound files, in and below them. Any sample rate; channels are averaged. Files that\n"
            "can't be read are left out and named, the rest goes on. docs/embed.md has the format.",
            described, positional, values))
        return 0;
    const EmbedOptions embed = embed_options(values);
    const Registry registry = make_registry(values);
    Console console;
    console.start("embed");
    EmbedResult result;
    try {
        result = torch_runtime().embed(embed, registry, console, cancel);
    } catch (...) {
        console.clear();
        throw;
    }
    console.clear();

    size_t skipped = 0;
    for (const EmbedInput& input : result.inputs) {
        if (input.problem.empty()) continue;
        fmt::print(stderr, "skipped {}: {}\n", input.path, input.problem);
        ++skipped;
    }
    const size_t embedded = result.inputs.size() - skipped;
    if (embedded == 0)
        throw Error(Code::kRunFailed,
                    fmt::format("none of the {} files could be embedded; nothing was written", skipped));
    fmt::print("{}: {} × {} numbers\n", (embed.out.empty() ? embed.csv : embed.out).string(), result.rows,
               result.width);
    fmt::print("{} files, {} of sound, {:.1f} x real time, {} skipped\n", embedded, duration(result.sound_seconds),
               result.sound_seconds / std::max(result.seconds, 1e-9), skipped);
    return skipped == 0 ? 0 : kSkippedFilesStatus;
}

}  // namespace biophony::app
