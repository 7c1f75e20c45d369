// What the interface demands of every plugin, asked of each in-tree plugin of tier S, and of the examples, through the
// C tables alone. A new plugin is tested without a line here, unless it has parameters without a default: then
// `some_parameters` needs to know.
#include <dlfcn.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <thread>

#include "../weights/stage_host.hpp"
#include "base/random.hpp"
#include "base/schema.hpp"
#include "biophony/c/dataset.h"
#include "biophony/c/merger.h"
#include "plugins/call.hpp"
#include "plugins/registry.hpp"

using namespace biophony;

namespace {

bph_str c(std::string_view text) {
    return {text.data(), text.size()};
}
std::string text_of(bph_str text) {
    return text.data == nullptr ? std::string() : std::string(text.data, text.size);
}

/// Two labels, two recordings each, in folders and in a table.
class Sounds {
public:
    Sounds() {
        std::string name = (fs::temp_directory_path() / "biophony-test-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
        folder_ = name;
        std::ofstream table(folder_ / "clips.csv");
        std::ofstream lab_table(folder_ / "lab.csv");
        table << "path,label,recording_id\n";
        lab_table << "station;file;begin;species;sure\n";
        for (const char* label : {"frog", "owl"})
            for (const char* file : {"a.wav", "b.wav"}) {
                const fs::path path = fs::path(label) / file;
                fs::create_directories(folder_ / label);
                write_silence(folder_ / path);
                table << path.string() << ',' << label << ',' << label << file << '\n';
                lab_table << "pond;" << path.string() << ";0.05;" << label << ";yes\n";
            }
    }
    ~Sounds() {
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }
    const fs::path& folder() const { return folder_; }

private:
    /// A tenth of a second: 16-bit mono PCM at 8 kHz.
    static void write_silence(const fs::path& path) {
        std::ofstream out(path, std::ios::binary);
        const auto number = [&out](uint32_t value, int bytes) {
            for (int i = 0; i < bytes; ++i) out.put(static_cast<char>(value >> (8 * i)));
        };
        out << "RIFF";
        number(36 + 1600, 4);
        out << "WAVEfmt ";
        for (const auto& [value, bytes] :
             {std::pair{16u, 4}, {1u, 2}, {1u, 2}, {8000u, 4}, {16000u, 4}, {2u, 2}, {16u, 2}})
            number(value, bytes);
        out << "data";
        number(1600, 4);
        for (int i = 0; i < 800; ++i) number(static_cast<uint32_t>(i % 7), 2);
    }
    fs::path folder_;
};

/// Values for the parameters that an item asks for and gives no default.
Json some_parameters(const ItemInfo& item, const Sounds& sounds) {
    if (item.name() == "dataset:table") return {{"file", (sounds.folder() / "clips.csv").string()}};
    if (item.name() == "dataset:labtable") return {{"table", (sounds.folder() / "lab.csv").string()}};
    if (item.name() == "dataset:folder") return {{"root", sounds.folder().string()}};
    if (item.name() == "dataset:synthetic") return {{"group", "frog"}, {"recordings", 2}, {"clip_seconds", 0.5}};
    return Json::object();
}

/// One in-tree item of tier S with its library opened by hand, as any host would.
struct Subject {
    ItemInfo item;
    const bph_plugin* plugin = nullptr;
    const bph_plugin* plugin_again = nullptr;
    std::string params;

    /// A preset stands for other stages and has no table.
    bool preset() const { return item.kind == "merger" && item.raw.at("merger").contains("preset"); }
    template <class Table>
    const Table& table() const {
        return *static_cast<const Table*>(plugin->get_interface(c(item.id), c(item.interface_id)));
    }
};

std::vector<Subject> subjects(const Sounds& sounds) {
    std::vector<Subject> out;
    std::istringstream names(BPH_PLUGINS);
    for (std::string name; std::getline(names, name, ':');) {
        const fs::path path = name;
        const PluginFile file = Registry::look_at(path, false);
        INFO(path << ": " << file.reason);
        REQUIRE(file.state == PluginState::kOk);
        CHECK(file.reason.empty());  // no unknown key, no symbol too many
        void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        REQUIRE(library != nullptr);
        const auto entry = reinterpret_cast<bph_entry_function>(::dlsym(library, BPH_ENTRY_NAME));
        REQUIRE(entry != nullptr);
        const bph_host host = {sizeof(host), BPH_SPINE_VERSION, c("test"),
                               [](const bph_host*, bph_str) -> const void* { return nullptr; }};
        for (const ItemInfo& item : file.items) {
            Subject subject{item, entry(&host), entry(&host), {}};
            Json params = some_parameters(item, sounds);
            std::vector<Diagnostic> problems;
            apply_schema(item.parameters, params, "", problems);
            for (const Diagnostic& problem : problems) UNSCOPED_INFO(item.name() << problem.text());
            REQUIRE(problems.empty());
            subject.params = params.dump();
            out.push_back(std::move(subject));
        }
    }
    REQUIRE_FALSE(out.empty());
    return out;
}

std::unique_ptr<PluginCall> call_of(const Subject& subject, const Cancel* cancel = nullptr) {
    return std::make_unique<PluginCall>(subject.item.name(), CallOptions{.seed = 1, .threads = 1, .cancel = cancel});
}

template <class Table>
void* create(const Subject& subject) {
    const auto call = call_of(subject);
    void* self = nullptr;
    call->check(subject.table<Table>().create(call->get(), c(subject.params), &self));
    REQUIRE(self != nullptr);
    return self;
}

/// What a data set describes, as a text.
std::string described(const Subject& subject, void* self, std::vector<uint64_t>* lengths = nullptr) {
    struct Host {
        std::string text;
        uint64_t recordings = 0;
        std::vector<uint64_t>* lengths;
    } host{.lengths = lengths};
    const bph_dataset_sink sink = {
        sizeof(sink), 0, &host,
        [](const bph_dataset_sink* s, const bph_recording* r) -> bph_status {
            Host& to = *static_cast<Host*>(s->host);
            to.text += "R " + text_of(r->id) + " " + text_of(r->uri) + " " + std::to_string(r->seconds) + " " +
                       std::to_string(r->sample_rate) + " " + text_of(r->licence) + " " + text_of(r->split);
            for (size_t i = 0; i < r->group_count; ++i)
                to.text += " " + text_of(r->groups[i].key) + "=" + text_of(r->groups[i].value);
            to.text += "\n";
            if (to.lengths != nullptr)
                to.lengths->push_back(static_cast<uint64_t>(std::llround(r->seconds * r->sample_rate)));
            ++to.recordings;
            return r->struct_size >= sizeof(bph_recording) ? BPH_OK : BPH_INTERNAL;
        },
        [](const bph_dataset_sink* s, const bph_region* r) -> bph_status {
            Host& to = *static_cast<Host*>(s->host);
            to.text += "r " + std::to_string(r->recording) + " " + std::to_string(r->start_s) + " " +
                       std::to_string(r->end_s) + " " + text_of(r->split);
            for (uint32_t i = 0; i < r->label_count; ++i) to.text += " " + text_of(r->labels[i].name);
            to.text += "\n";
            return r->struct_size >= sizeof(bph_region) && r->recording < to.recordings ? BPH_OK : BPH_INTERNAL;
        }};
    const auto call = call_of(subject);
    call->check(subject.table<bph_dataset_v0>().describe(call->get(), self, &sink));
    CHECK(host.recordings > 0);
    return host.text;
}

std::vector<float> samples(const Subject& subject, void* self, uint64_t recording, uint64_t first, uint64_t frames) {
    const auto call = call_of(subject);
    std::vector<float> out(frames, 99.0f);
    uint64_t got = 0;
    call->check(
        subject.table<bph_dataset_v0>().read_samples(call->get(), self, recording, first, frames, out.data(), &got));
    REQUIRE(got <= frames);
    out.resize(got);
    return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

}  // namespace

TEST_CASE("the entry function gives the same answer twice, and names must match whole") {
    const Sounds sounds;
    for (const Subject& subject : subjects(sounds)) {
        INFO(subject.item.name());
        REQUIRE(subject.plugin != nullptr);
        CHECK(subject.plugin == subject.plugin_again);
        const auto ask = [&](const std::string& id, const std::string& interface_id) {
            return subject.plugin->get_interface(c(id), c(interface_id));
        };
        const std::string id = subject.item.id, interface_id = subject.item.interface_id;
        CHECK((ask(id, interface_id) == nullptr) == subject.preset());
        CHECK(ask(id, interface_id) == ask(id, interface_id));
        for (const std::string& wrong : {interface_id + "x", interface_id + " ", interface_id + std::string(1, '\0'),
                                         interface_id.substr(0, interface_id.size() - 1), std::string()})
            CHECK(ask(id, wrong) == nullptr);
        for (const std::string& wrong : {id + "x", id + std::string(1, '\0'), id.substr(1), std::string()})
            CHECK(ask(wrong, interface_id) == nullptr);
    }
}

TEST_CASE("manifests say what a user needs, and schemas refuse what nobody knows") {
    const Sounds sounds;
    for (const Subject& subject : subjects(sounds)) {
        INFO(subject.item.name());
        CHECK_FALSE(subject.item.title.empty());
        CHECK_FALSE(subject.item.summary.empty());
        CHECK_FALSE(subject.item.licence.empty());
        CHECK(subject.item.build.size() == 64);
        const Json properties = subject.item.parameters.value("properties", Json::object());
        for (const auto& [name, property] : properties.items()) {
            INFO(name);
            CHECK_FALSE(property.value("description", "").empty());
        }
        // The defaults that were filled in are valid as values of one's own.
        Json params = Json::parse(subject.params);
        const Json before = params;
        std::vector<Diagnostic> problems;
        apply_schema(subject.item.parameters, params, "", problems);
        CHECK(problems.empty());
        CHECK(params == before);
        params["surely_unknown"] = 1;
        apply_schema(subject.item.parameters, params, "", problems);
        REQUIRE(problems.size() == 1);
        CHECK_THAT(problems[0].text(), Catch::Matchers::Contains("surely_unknown"));
    }
}

TEST_CASE("instances come and go, and wrong parameters are refused with a message") {
    const Sounds sounds;
    for (const Subject& subject : subjects(sounds)) {
        if (subject.preset()) continue;
        INFO(subject.item.name());
        const bool dataset = subject.item.kind == "dataset";
        const auto make = [&] { return dataset ? create<bph_dataset_v0>(subject) : create<bph_merger_v0>(subject); };
        const auto destroy = [&](void* self) {
            dataset ? subject.table<bph_dataset_v0>().destroy(self) : subject.table<bph_merger_v0>().destroy(self);
        };
        destroy(make());
        void* const first = make();
        void* const second = make();
        CHECK(first != second);
        destroy(first);
        destroy(second);
        for (const char* broken : {"", "{", "no JSON"}) {
            const auto call = call_of(subject);
            void* self = nullptr;
            const bph_status status = dataset ? subject.table<bph_dataset_v0>().create(call->get(), c(broken), &self)
                                              : subject.table<bph_merger_v0>().create(call->get(), c(broken), &self);
            CHECK(status != BPH_OK);
            CHECK(self == nullptr);
            try {
                call->check(status);
            } catch (const Error& error) {
                CHECK_THAT(error.what(), !Catch::Matchers::Contains("bug of the plugin"));
            }
        }
    }
}

TEST_CASE("data sets describe the same each time, whoever else is at work") {
    const Sounds sounds;
    for (const Subject& subject : subjects(sounds)) {
        if (subject.item.kind != "dataset") continue;
        INFO(subject.item.name());
        const bph_dataset_v0& table = subject.table<bph_dataset_v0>();
        void* const alone = create<bph_dataset_v0>(subject);
        std::vector<uint64_t> lengths;
        const std::string expected = described(subject, alone, &lengths);
        CHECK(described(subject, alone) == expected);
        std::vector<float> whole;
        if (table.read_samples != nullptr) {
            REQUIRE(lengths[0] > 100);
            whole = samples(subject, alone, 0, 0, lengths[0]);
            CHECK(whole.size() == lengths[0]);
        }
        table.destroy(alone);

        void* const a = create<bph_dataset_v0>(subject);
        void* const b = create<bph_dataset_v0>(subject);
        CHECK(described(subject, b) == expected);
        CHECK(described(subject, a) == expected);
        if (table.read_samples != nullptr) {
            // In pieces, out of order, from two instances in turn.
            std::vector<float> from_a(whole.size()), from_b(whole.size());
            for (uint64_t end = whole.size(); end > 0;) {
                const uint64_t begin = end > 997 ? end - 997 : 0;
                for (auto [self, to] : {std::pair{a, &from_a}, std::pair{b, &from_b}}) {
                    const auto part = samples(subject, self, 0, begin, end - begin);
                    REQUIRE(part.size() == end - begin);
                    std::copy(part.begin(), part.end(), to->begin() + static_cast<std::ptrdiff_t>(begin));
                    if (lengths.size() > 1) samples(subject, self, 1, begin, 10);
                }
                end = begin;
            }
            CHECK(same_bits(from_a, whole));
            CHECK(same_bits(from_b, whole));
            // Fewer samples than asked for at the end only; none behind it.
            CHECK(samples(subject, a, 0, whole.size() - 5, 100).size() == 5);
            CHECK(samples(subject, a, 0, whole.size() + 5, 100).empty());
            CHECK(samples(subject, a, 0, 3, 0).empty());
            CHECK_THROWS_AS(samples(subject, a, lengths.size(), 0, 10), Error);
            for (const float sample : whole) {
                if (!(std::abs(sample) <= 1)) FAIL("found the sample " << sample << ", expected one in [-1, 1]");
            }
        }
        table.destroy(a);
        table.destroy(b);
    }
}

TEST_CASE("data sets end when they are cancelled, or when the host takes no more") {
    const Sounds sounds;
    for (const Subject& subject : subjects(sounds)) {
        if (subject.item.kind != "dataset") continue;
        INFO(subject.item.name());
        const bph_dataset_v0& table = subject.table<bph_dataset_v0>();
        void* const self = create<bph_dataset_v0>(subject);
        Cancel cancel;
        cancel.request();
        int calls = 0;
        const auto sink_with = [&calls](bph_status (*recording)(const bph_dataset_sink*, const bph_recording*)) {
            return bph_dataset_sink{sizeof(bph_dataset_sink), 0, &calls, recording,
                                    [](const bph_dataset_sink*, const bph_region*) -> bph_status { return BPH_OK; }};
        };
        const bph_dataset_sink takes =
            sink_with([](const bph_dataset_sink*, const bph_recording*) -> bph_status { return BPH_OK; });
        const auto cancelled = call_of(subject, &cancel);
        const bph_status status = table.describe(cancelled->get(), self, &takes);
        CHECK((status == BPH_OK || status == BPH_CANCELLED));
        const bph_dataset_sink full = sink_with([](const bph_dataset_sink* s, const bph_recording*) -> bph_status {
            ++*static_cast<int*>(s->host);
            return BPH_IO;
        });
        const auto refused = call_of(subject);
        CHECK(table.describe(refused->get(), self, &full) == BPH_IO);
        CHECK(calls == 1);
        table.destroy(self);
    }
}

TEST_CASE("merge stages give the same bits for every tile size, observing state, instance and thread") {
    const Sounds sounds;
    for (const Subject& subject : subjects(sounds)) {
        if (subject.item.kind != "merger" || subject.preset()) continue;
        INFO(subject.item.name());
        const Json about = subject.item.raw["merger"];
        CHECK((about["stage"] == "transform" || about["stage"] == "combine" || about["stage"] == "post"));
        const size_t most = about["stage"] == "post" ? 1 : 3;
        const Json exactly = about.value("experts", Json());
        auto tensors = test::odd_tensors(exactly.is_number() ? exactly.get<size_t>() : most);
        for (auto& tensor : tensors) tensor.block = static_cast<int32_t>(tensor.shape.size()) - 1;
        const auto before = tensors;
        const auto make = [&] {
            return std::make_unique<test::StageHost>(subject.item.raw, subject.table<bph_merger_v0>(),
                                                     Json::parse(subject.params));
        };
        const auto a = make(), b = make();
        const auto whole = a->run(tensors);
        for (const auto& tensor : whole)
            for (const auto& expert : tensor.experts)
                for (const float value : expert) REQUIRE(std::isfinite(value));
        CHECK(test::same_bits(tensors, before));
        CHECK(test::same_bits(b->run(tensors, {{1, 7, 64, 3}, 2, 1}), whole));
        CHECK(test::same_bits(a->run(tensors, {{50, 1}, 5, 1}), whole));
        std::vector<test::StageTensor> from_thread;
        std::thread other([&] { from_thread = a->run(tensors, {{13}, 3, 1}); });
        CHECK(test::same_bits(a->run(tensors, {{17}, 4, 1}), whole));
        other.join();
        CHECK(test::same_bits(from_thread, whole));
        CHECK(test::same_bits(a->run(tensors, {.seed = 2}), whole) != about.value("random", false));
        if (about.value("permutation_invariant", false)) {
            // Of transforms the results change places as the experts do.
            auto swapped = a->run(test::reversed(tensors));
            if (about["stage"] == "transform") swapped = test::reversed(swapped);
            CHECK(test::distance(swapped, whole) < 1e-6);
        }
    }
}

TEST_CASE("the examples do what they say") {
    const Sounds sounds;
    int seen = 0;
    for (const Subject& subject : subjects(sounds)) {
        if (subject.item.name() == "merger:median") {
            const test::StageHost median(subject.item.raw, subject.table<bph_merger_v0>(), Json::parse(subject.params));
            CHECK(median.run(test::one_tensor({{1, -4}, {9, -5}, {2, 7}}))[0].experts[0] == std::vector<float>{2, -4});
            CHECK(median.run(test::one_tensor({{1, -4}, {9, -5}}))[0].experts[0] == std::vector<float>{5, -4.5});
            ++seen;
        }
        if (subject.item.name() == "dataset:labtable") {
            void* const self = create<bph_dataset_v0>(subject);
            const std::string text = described(subject, self);
            CHECK_THAT(text,
                       Catch::Matchers::Contains("recording=frog/a.wav site=pond\nr 0 0.050000 3.050000  frog\n"));
            std::ofstream(sounds.folder() / "lab.csv") << "station;file;begin;species;sure\npond;a.wav;1,5;frog;yes\n";
            try {
                described(subject, self);
                FAIL("a decimal comma was taken");
            } catch (const Error& error) {
                CHECK(error.code() == Code::kInvalid);
                CHECK_THAT(error.what(), Catch::Matchers::Contains("lab.csv:2: found 1,5, expected seconds"));
            }
            subject.table<bph_dataset_v0>().destroy(self);
            ++seen;
        }
    }
    CHECK(seen == 2);
}
