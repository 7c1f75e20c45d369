// What encoders' manifests say without their code is what their code says.
#include "plugins/encoder_facts.hpp"

#include "base/schema.hpp"
#include "learn/encoder.hpp"
#include "plugins.hpp"

#include <catch2/catch.hpp>

using namespace biophony;
using namespace biophony::test;

TEST_CASE("manifests of encoders and their code say the same of a configuration") {
    struct Case {
        const char* encoder;
        const char* params;
    };
    for (const Case& c :
         {Case{"encoder:beats", R"({"encoder_layers": 2, "encoder_embed_dim": 48, "encoder_attention_heads": 2,
                                                    "embed_dim": 16, "conv_pos": 8, "input_patch_size": 20})"},
          Case{"encoder:beats", R"({"encoder_layers": 1, "encoder_embed_dim": 32, "encoder_attention_heads": 2,
                                                    "embed_dim": 16, "conv_pos": 8, "window_seconds": 2.5})"},
          Case{"encoder:hubert", R"({"encoder_num_layers": 2, "encoder_embed_dim": 32, "encoder_num_heads": 2,
                                                     "encoder_pos_conv_kernel": 8})"},
          Case{"encoder:mel-statistics", R"({"window_seconds": 1.5})"}}) {
        INFO(c.encoder << " " << c.params);
        const ItemInfo& item = torch_plugins().require(c.encoder);
        Json params = Json::parse(c.params);
        std::vector<Diagnostic> problems;
        apply_schema(item.parameters, params, "", problems);
        REQUIRE(problems.empty());
        const LoadedEncoder encoder = make_encoder(item, params, 1);
        const EncoderInfo info = encoder.module->info();
        // As a file may hold it that an earlier version wrote: without what is as usual.
        for (const Json& config : {params, Json::parse(c.params)}) {
            const EncoderFacts facts = encoder_facts(item, config);
            CHECK(facts.sample_rate == info.sample_rate);
            CHECK(facts.window_seconds == info.window_seconds);
            CHECK(facts.width == info.width);
            CHECK(facts.bands == info.bands);
            CHECK(facts.blocks == info.depth);
            CHECK(facts.trainable.value_or(true) == !encoder.module->parameters().empty());
        }
    }
}
