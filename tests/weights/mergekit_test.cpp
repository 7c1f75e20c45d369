// The methods that are mergekit's as well, against what mergekit gave for the same models: golden/mergekit/README.md;
// and others against what their authors' code gave: golden/authors/README.md.
#include <cmath>

#include "biophony/philox.hpp"
#include "files.hpp"
#include "stage_host.hpp"

using namespace biophony;
using namespace biophony::test;

namespace {

const Json& golden() {
    static const Json data =
        Json::parse(read_file(fs::path(BPH_SOURCE_DIR) / "tests/weights/golden/mergekit/outputs.json"));
    return data;
}
std::vector<float> floats(const Json& values) {
    return values.get<std::vector<float>>();
}

/// The models' weights, or their deltas.
std::vector<StageTensor> models(const std::vector<size_t>& experts, bool weights) {
    std::vector<StageTensor> out;
    for (const auto& [name, shape] : golden().at("shapes").items()) {
        StageTensor tensor{name, "matrix", shape.get<std::vector<uint64_t>>(), {}};
        const std::vector<float> base = floats(golden().at("base").at(name));
        for (const size_t i : experts) {
            tensor.experts.push_back(floats(golden().at("experts").at(i).at(name)));
            if (weights) continue;
            for (size_t k = 0; k < base.size(); ++k) tensor.experts.back()[k] -= base[k];
        }
        out.push_back(std::move(tensor));
    }
    return out;
}

}  // namespace

TEST_CASE("mergekit gives the same where the formula is the same") {
    const StagePlugins& plugins = StagePlugins::get();
    for (const Json& method : golden().at("methods")) {
        INFO(method.at("name"));
        const std::string first = method.at("stages").at(0).at("use").get<std::string>().substr(7);
        const bool weights = plugins.manifest(first).at("merger").value("space", "delta") == "weight";
        auto tensors = models(method.at("experts"), weights);
        for (const Json& stage : method.at("stages"))
            tensors =
                plugins.run(stage.at("use").get<std::string>().substr(7), tensors, stage.value("with", Json::object()));
        for (const StageTensor& tensor : tensors) {
            INFO(tensor.name);
            const std::vector<float> expected = floats(method.at("result").at(tensor.name)),
                                     base = floats(golden().at("base").at(tensor.name));
            REQUIRE(tensor.experts[0].size() == expected.size());
            double error = 0, size = 0;
            for (size_t k = 0; k < expected.size(); ++k) {
                const double start = weights ? 0 : base[k], wanted = expected[k] - start;
                error += std::pow(tensor.experts[0][k] - wanted, 2);
                size += wanted * wanted;
            }
            CHECK(std::sqrt(error / size) < 1e-6);
        }
    }
}

TEST_CASE("mergekit's DARE was given the masks that are drawn here") {
    const Json& dare = golden().at("dare");
    const auto tensors = models({0, 1, 2}, false);
    const auto out = StagePlugins::get().run("random-drop.l1", tensors, {{"p", dare.at("p")}});
    for (size_t t = 0; t < tensors.size(); ++t)
        for (size_t i = 0; i < 3; ++i) {
            INFO(tensors[t].name << " of expert " << i);
            std::string mask;
            for (const float value : out[t].experts[i]) mask += value == 0 ? '0' : '1';
            CHECK(mask == dare.at("masks").at(tensors[t].name).at(i));
        }
}

TEST_CASE("the authors' own code gives the same") {
    const Json authors = Json::parse(read_file(fs::path(BPH_SOURCE_DIR) / "tests/weights/golden/authors/outputs.json"));
    for (const Json& method : authors.at("methods")) {
        INFO(method.at("name"));
        auto tensors = models(method.at("experts"), false);
        for (StageTensor& tensor : tensors) {
            tensor.block = method.value("blocks", Json::object()).value(tensor.name, -1);
            tensor.sources = tensor.experts;
        }
        for (const Json& stage : method.at("stages"))
            tensors = StagePlugins::get().run(stage.at("use").get<std::string>().substr(7), tensors, stage.at("with"));
        double error = 0, size = 0;
        for (const StageTensor& tensor : tensors) {
            const std::vector<float> expected = floats(method.at("step").at(tensor.name));
            REQUIRE(tensor.experts[0].size() == expected.size());
            for (size_t k = 0; k < expected.size(); ++k) {
                error += std::pow(tensor.experts[0][k] - expected[k], 2);
                size += std::pow(expected[k], 2);
            }
        }
        CHECK(std::sqrt(error / size) < 1e-6);
    }
}

TEST_CASE("DELLA keeps values with mergekit's probabilities") {
    const Json& della = golden().at("della");
    const Json with = {{"density", della.at("density")}, {"epsilon", della.at("epsilon")}, {"rescale", "l1"}};
    const auto tensors = models({0, 1, 2}, false);
    const auto out = StagePlugins::get().run("magprune", tensors, with);
    for (size_t t = 0; t < tensors.size(); ++t)
        for (size_t i = 0; i < 3; ++i) {
            INFO(tensors[t].name << " of expert " << i);
            // The mask from mergekit's probabilities and our numbers, scaled to the former L1 norm.
            const Json& keep = della.at("probabilities").at(i).at(tensors[t].name);
            const sdk::Philox numbers(mix(mix(1, t), i));
            double before = 0, after = 0;
            std::vector<double> masked;
            for (size_t k = 0; k < tensors[t].size(); ++k) {
                const double delta = tensors[t].experts[i][k];
                masked.push_back(numbers.uniform(k) < keep.at(k).get<double>() ? delta : 0);
                before += std::fabs(delta), after += std::fabs(masked.back());
            }
            for (size_t k = 0; k < masked.size(); ++k)
                REQUIRE(out[t].experts[i][k] == Approx(masked[k] * before / after).epsilon(1e-6).margin(1e-12));
        }
}
