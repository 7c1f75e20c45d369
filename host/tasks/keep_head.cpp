// keep-head: a head that was fitted on one encoder, as it is, on another.
#include <fmt/format.h>

#include "base/files.hpp"
#include "node_sources.hpp"
#include "pipeline/describe.hpp"
#include "tasks/describing.hpp"
#include "tasks/node_types.hpp"
#include "tasks/sweep.hpp"

namespace biophony {

void keep_head(const fs::path& head, const fs::path& encoder, const std::string& digest, const fs::path& out) {
    Json card = read_json(head / "head.json");
    Json& encoders = card.at("encoders");
    if (encoders.size() != 1 || encoders[0].is_null())
        throw Error(Code::kRunFailed,
                    fmt::format("the head '{}' reads its experts' own encoders, expected one that reads one encoder",
                                card.value("name", "")));
    encoders[0] = digest;
    write_json(out / "head.json", card);
    for (const auto& [from, name] : {std::pair(head, "head.safetensors"), std::pair(encoder, "encoder.safetensors")}) {
        std::error_code problem;
        fs::create_hard_link(from / name, out / name, problem);
        if (problem) fs::copy_file(from / name, out / name);
    }
}

namespace {

void describe_keep_head(Describing& describing) {
    Description& out = describing.out;
    const Description &encoder = *describing.input("encoder"), &head = *describing.input("head");
    take_encoder(out, encoder);
    out.labels = head.labels;
    out.groups = head.groups;
    out.pooling = head.pooling;
    out.holds = "nothing";
    if (other_width(encoder, head, head.pooling))
        describing.problem("/in/encoder",
                           fmt::format("'{}' gives {} numbers a frame, but the head '{}' was fitted on {}; expected an "
                                       "encoder like the head's",
                                       describing.id("encoder"), *encoder.width, describing.id("head"), *head.width),
                           Code::kRunFailed);
}

}  // namespace

NodeType keep_head_type() {
    return {
        .name = "keep-head",
        .summary = "a head that was fitted on one encoder, as it is, on another",
        .inputs = {{.name = "encoder", .types = {"encoder", "checkpoint"}, .summary = "what the head now listens to"},
                   {.name = "head", .types = {"head"}, .summary = "fitted on another encoder of the same kind"}},
        .output = std::string(port::kHead),
        .parameters = Json::parse(R"({"type": "object", "properties": {}})"),
        .sources = sources::k_keep_head,
        .run =
            [](TaskContext& context) {
                keep_head(context.input("head").folder, context.input("encoder").folder,
                          context.input("encoder").digest, context.out);
                context.headline = "of '" + context.input("head").node + "'";
            },
        .describe = describe_keep_head,
    };
}

}  // namespace biophony
