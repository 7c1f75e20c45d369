// biophony convert: checkpoints of others as safetensors.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "app/command.hpp"
#include "base/files.hpp"
#include "base/sha256.hpp"
#include "weights/checkpoint.hpp"

namespace biophony::app {

namespace {

constexpr uint64_t kPiece = 64 << 20;  ///< bytes of a tensor that are held at a time

std::string few(const std::vector<std::string>& names) {
    const size_t shown = std::min<size_t>(names.size(), 5);
    return fmt::format("{}{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
                       shown < names.size() ? fmt::format(", … ({} in all)", names.size()) : "");
}

/// The configuration of a file of the user's, as canonical JSON.
std::string read_config(const fs::path& file) {
    std::vector<Diagnostic> problems;
    const JsonText text = JsonText::parse(read_file(file), file.string(), problems);
    if (!problems.empty()) throw Error(Code::kRunFailed, problems.front().message, problems.front().where);
    if (!text.value().is_object())
        throw Error(Code::kRunFailed, fmt::format("is {}, expected a configuration, an object", describe(text.value())),
                    {.file = file.string()});
    return canonical(text.value());
}

}  // namespace

void print_checkpoint(const Checkpoint& checkpoint) {
    fmt::print("{}: {}{}\n", checkpoint.path().string(), checkpoint.container(),
               checkpoint.key().empty()  ? ""
               : checkpoint.key() == "/" ? ", the state dict is the outermost value"
                                         : fmt::format(", the state dict is under '{}'", checkpoint.key()));
    std::map<std::string_view, size_t> types;
    uint64_t values = 0;
    std::vector<std::string> copies;
    for (const TensorInfo& tensor : checkpoint.tensors()) {
        ++types[to_string(tensor.dtype)];
        values += tensor.elements();
        if (!checkpoint.tied_to(tensor).empty()) copies.push_back(tensor.name);
    }
    std::vector<std::string> parts;
    for (const auto& [type, count] : types) parts.push_back(fmt::format("{} {}", count, type));
    fmt::print("  tensors    {} with {} values ({})\n", checkpoint.tensors().size(), values, fmt::join(parts, ", "));
    if (!copies.empty()) fmt::print("  tied       {}: the same memory as a tensor before\n", few(copies));
    for (const Checkpoint::Unreadable& tensor : checkpoint.unreadable())
        fmt::print("  unreadable {}: {}\n", tensor.name, tensor.why);
    fmt::print("  config     {}\n", checkpoint.config().empty() ? "none" : checkpoint.config());
    if (!checkpoint.labels().empty()) {
        const Json labels = Json::parse(checkpoint.labels(), nullptr, false);
        fmt::print("  labels     {}\n", labels.size());
    }
    for (const std::string& line : checkpoint.ignored()) fmt::print("  ignored    {}\n", line);
}

int convert_command(const std::vector<std::string>& arguments) {
    options::options_description described;
    described.add_options()(
        "key", options::value<std::string>()->value_name("PATH")->default_value("", ""),
        "where the state dict stands in a PyTorch file: model, ema/model, / for the outermost value");
    described.add_options()("config", options::value<std::string>()->value_name("FILE"),
                            "a JSON object: the model's configuration, in place of what the file says");
    described.add_options()("_in", options::value<std::string>()->required(), "");
    described.add_options()("_out", options::value<std::string>()->required(), "");
    options::positional_options_description positional;
    positional.add("_in", 1);
    positional.add("_out", 1);
    options::variables_map values;
    if (!parse(arguments, "convert IN OUT.safetensors [--key PATH] [--config FILE]",
               "Writes a checkpoint as safetensors: what torch.save wrote (any version since 0.1.10), a TorchScript "
               "archive, safetensors in shards. Nothing in the file is executed. Names and types stay as they are.",
               described, positional, values))
        return 0;
    const fs::path out = values["_out"].as<std::string>();
    if (out.extension() != ".safetensors")
        throw Error(Code::kInvalid,
                    fmt::format("the second file is '{}', expected a name that ends in .safetensors", out.string()));

    const Checkpoint checkpoint = Checkpoint::open(values["_in"].as<std::string>(), values["key"].as<std::string>());
    require_other_file("OUT", out, checkpoint.path(), "the checkpoint");
    for (const fs::path& file : checkpoint.files()) require_other_file("OUT", out, file, "a shard of the checkpoint");
    if (values.count("config") > 0)
        require_other_file("OUT", out, values["config"].as<std::string>(), "the configuration");
    print_checkpoint(checkpoint);
    if (!checkpoint.unreadable().empty())
        throw Error(Code::kRunFailed,
                    fmt::format("the tensor '{}' can't be converted: {}", checkpoint.unreadable().front().name,
                                checkpoint.unreadable().front().why),
                    {.file = checkpoint.path().string()});

    std::map<std::string, std::string> metadata = checkpoint.metadata();
    if (values.count("config") > 0) {
        if (metadata.contains("biophony.config"))
            throw Error(Code::kInvalid, "is an encoder file, which has its configuration; --config is not for it",
                        {.file = checkpoint.path().string()});
        metadata["cfg"] = read_config(values["config"].as<std::string>());
        fmt::print("  config     that of {} in its place\n", values["config"].as<std::string>());
    } else if (!checkpoint.config().empty() && !metadata.contains("biophony.config")) {
        metadata["cfg"] = checkpoint.config();
    }
    if (!checkpoint.labels().empty()) metadata["labels"] = checkpoint.labels();

    Json source = {{"container", checkpoint.container()}, {"files", Json::object()}};
    for (const fs::path& file : checkpoint.files()) source["files"][file.filename().string()] = sha256_file(file);
    if (!checkpoint.key().empty()) source["key"] = checkpoint.key();
    Json copies = Json::object();
    std::vector<SafetensorsWriter::Tensor> announced;
    for (const TensorInfo& tensor : checkpoint.tensors()) {
        announced.push_back({tensor.name, tensor.dtype, tensor.shape});
        if (const std::string_view tied = checkpoint.tied_to(tensor); !tied.empty()) copies[tensor.name] = tied;
    }
    const auto text = [](const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); };
    metadata["biophony.source"] = text(source);
    if (!copies.empty()) metadata["biophony.copies"] = text(copies);

    SafetensorsWriter writer(out, announced, metadata);
    std::vector<std::byte> piece;
    for (const TensorInfo& tensor : checkpoint.tensors())
        for (uint64_t at = 0; at < tensor.bytes(); at += piece.size()) {
            cancel.check();
            piece.resize(std::min(kPiece, tensor.bytes() - at));
            checkpoint.read(tensor, at, piece);
            writer.write(tensor.name, at, piece);
        }
    writer.finish();
    fmt::print("{}: {} bytes, sha256 {}\n", out.string(), fs::file_size(out), sha256_file(out));
    return 0;
}

}  // namespace biophony::app
