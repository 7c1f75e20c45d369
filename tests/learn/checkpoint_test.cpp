// Encoders from checkpoints of others: containers, configurations, tied tensors. Reference weights and what they are
// made from stand in tests/golden.
#include <ATen/core/grad_mode.h>

#include "learn/encoder.hpp"

#undef CHECK
#include <stdlib.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "base/files.hpp"
#include "base/schema.hpp"
#include "plugins.hpp"
#include "weights/checkpoint.hpp"

using namespace biophony;
using Catch::Contains;

namespace {

const fs::path kGolden = fs::path(BPH_SOURCE_DIR) / "tests/golden";

const ItemInfo& beats() {
    return test::torch_plugins().require("encoder:beats");
}

/// The parameters as a pipeline gives them that sets none.
Json defaults() {
    Json params = Json::object();
    std::vector<Diagnostic> problems;
    apply_schema(beats().parameters, params, "", problems);
    return params;
}

std::string error_of(const std::function<void()>& body) {
    try {
        body();
    } catch (const Error& error) {
        return error.what();
    }
    return {};
}

class Folder {
public:
    Folder() {
        std::string name = (fs::temp_directory_path() / "biophony-checkpoint-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
        path_ = name;
    }
    ~Folder() { fs::remove_all(path_); }
    fs::path operator/(const std::string& name) const { return path_ / name; }

private:
    fs::path path_;
};

/// Saves the encoder and reads the file's bytes: the same weights and card are the same bytes.
std::string saved(const LoadedEncoder& encoder) {
    const Folder folder;
    save_encoder(encoder, folder / "x.safetensors");
    return read_file(folder / "x.safetensors");
}

/// Copies a safetensors file; `change` may drop a tensor (false) or change its bytes.
void copy_weights(const fs::path& from, const fs::path& to, const std::map<std::string, std::string>& metadata,
                  const std::function<bool(const std::string&, std::vector<std::byte>&)>& change) {
    const SafetensorsFile source = SafetensorsFile::open(from);
    std::vector<SafetensorsWriter::Tensor> announced;
    std::map<std::string, std::vector<std::byte>> content;
    for (const TensorInfo& tensor : source.tensors()) {
        std::vector<std::byte> bytes(tensor.bytes());
        source.read(tensor, 0, bytes);
        if (!change(tensor.name, bytes)) continue;
        announced.push_back({tensor.name, tensor.dtype, tensor.shape});
        content[tensor.name] = std::move(bytes);
    }
    SafetensorsWriter writer(to, announced, metadata);
    for (const auto& [name, bytes] : content) writer.write(name, 0, bytes);
    writer.finish();
}

}  // namespace

TEST_CASE("a .pt file gives the encoder that its safetensors twin gives, whatever the container") {
    const std::string expected =
        saved(load_checkpoint(beats(), defaults(), kGolden / "beats/beats_tiny_weights.safetensors"));
    for (const char* name :
         {"beats_tiny_official_layout.pt", "beats_tiny_official_layout_legacy.pt", "beats_tiny_plain_dict.pt"}) {
        INFO(name);
        const LoadedEncoder encoder = load_checkpoint(beats(), defaults(), kGolden / "checkpoints" / name);
        CHECK(encoder.card.config.at("encoder_embed_dim") == 48);
        CHECK(saved(encoder) == expected);
    }
}

TEST_CASE("a checkpoint without a configuration needs one: named, or beside it") {
    const Folder folder;
    const fs::path file = folder / "bare.torchaudio.pt";
    fs::copy_file(kGolden / "checkpoints/beats_tiny_state_dict_only.pt", file);
    CHECK_THAT(error_of([&] { load_checkpoint(beats(), defaults(), file); }),
               Contains("has no configuration") && Contains("bare.torchaudio.model_config.json"));
    // Settings of a training are no configuration of an encoder.
    CHECK_THAT(error_of([&] { load_checkpoint(beats(), defaults(), kGolden / "checkpoints/namespace_ckpt.pt"); }),
               Contains("has no field that this encoder knows"));

    const std::string config = Checkpoint::open(kGolden / "checkpoints/beats_tiny_official_layout.pt").config();
    const std::string expected =
        saved(load_checkpoint(beats(), defaults(), kGolden / "beats/beats_tiny_weights.safetensors"));
    write_file_atomically(folder / "named.json", config);
    CHECK(saved(load_checkpoint(beats(), defaults(), file, folder / "named.json")) == expected);
    // The parameters as they are given.
    write_file_atomically(folder / "empty.json", "{}");
    const Json all = load_checkpoint(beats(), defaults(), file, folder / "named.json").card.config;
    CHECK(saved(load_checkpoint(beats(), all, file, folder / "empty.json")) == expected);

    write_file_atomically(folder / "bare.torchaudio.model_config.json", config);
    CHECK(saved(load_checkpoint(beats(), defaults(), file)) == expected);
    // What is named wins over what lies beside, and over the file's own.
    Json other = Json::parse(config);
    other["deep_norm"] = false;
    write_file_atomically(folder / "named.json", other.dump());
    CHECK(load_checkpoint(beats(), defaults(), file, folder / "named.json").card.config.at("deep_norm") == false);
    CHECK(load_checkpoint(beats(), defaults(), kGolden / "checkpoints/beats_tiny_official_layout.pt",
                          folder / "named.json")
              .card.config.at("deep_norm") == false);
    write_file_atomically(folder / "named.json", "not JSON");
    CHECK_THAT(error_of([&] { load_checkpoint(beats(), defaults(), file, folder / "named.json"); }),
               Contains("named.json"));

    // An encoder file of the program has its own and takes no other.
    save_encoder(load_checkpoint(beats(), defaults(), file), folder / "own.safetensors");
    CHECK(saved(load_checkpoint(beats(), defaults(), folder / "own.safetensors")) == expected);
    CHECK_THAT(
        error_of([&] { load_checkpoint(beats(), defaults(), folder / "own.safetensors", folder / "empty.json"); }),
        Contains("empty.json is not for it"));
}

TEST_CASE("an index of shards is no encoder's checkpoint, of one shard either: its key would not count the weights") {
    const Folder folder;
    fs::copy_file(kGolden / "beats/beats_tiny_weights.safetensors", folder / "w.safetensors");
    write_file_atomically(folder / "index.json", R"({"weight_map": {"layer_norm.weight": "w.safetensors"}})");
    CHECK_THAT(error_of([&] { load_checkpoint(beats(), defaults(), folder / "index.json"); }),
               Contains("is in shards; 'biophony convert' makes one file of them"));
}

TEST_CASE("copies of BEATs' table of relative positions must be equal, since the encoder has one") {
    const Folder folder;
    const fs::path from = kGolden / "beats/beats_tiny_weights.safetensors";
    const std::map<std::string, std::string> metadata = SafetensorsFile::open(from).metadata();
    const std::string table = ".self_attn.relative_attention_bias.weight", last = "encoder.layers.2" + table;
    REQUIRE(SafetensorsFile::open(from).find(last) != nullptr);
    copy_weights(from, folder / "other.safetensors", metadata, [&](const std::string& name, auto& bytes) {
        if (name == last) bytes.back() ^= std::byte{1};
        return true;
    });
    CHECK_THAT(error_of([&] { load_checkpoint(beats(), defaults(), folder / "other.safetensors"); }),
               Contains("the tensors 'encoder.layers.0" + table + "' and '" + last +
                        "' should be one in encoder:beats, and their values differ"));
    // One copy is enough, whichever layer it is of.
    copy_weights(from, folder / "one.safetensors", metadata,
                 [&](const std::string& name, auto&) { return !name.ends_with(table) || name == last; });
    CHECK(saved(load_checkpoint(beats(), defaults(), folder / "one.safetensors")) ==
          saved(load_checkpoint(beats(), defaults(), from)));
}

TEST_CASE("a checkpoint that lacks a tensor, or has one that can't be read, is refused") {
    const Folder folder;
    const fs::path from = kGolden / "beats/beats_tiny_weights.safetensors";
    const std::map<std::string, std::string> metadata = SafetensorsFile::open(from).metadata();
    copy_weights(from, folder / "less.safetensors", metadata,
                 [](const std::string& name, auto&) { return name != "layer_norm.weight"; });
    CHECK_THAT(error_of([&] { load_checkpoint(beats(), defaults(), folder / "less.safetensors"); }),
               Contains("lacks tensors") && Contains("layer_norm.weight"));
    write_file_atomically(folder / "empty.json", "{}");
    CHECK_THAT(error_of([&] {
                   load_checkpoint(beats(), defaults(), kGolden / "checkpoints/sparse.pt", folder / "empty.json");
               }),
               Contains("'s' can't be read: it is sparse"));
}
