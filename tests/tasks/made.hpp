// Runs one node outside of a pipeline, and keeps what it said.
#pragma once

#include "sounds.hpp"
#include "tasks/clips.hpp"
#include "tasks/node_types.hpp"

namespace biophony::test {

struct Made {
    fs::path folder;  ///< the result
    std::string notes;
    ClipSet set;
    Json json;  ///< dataset.json
};

/// `params` as a pipeline gives them; defaults are filled in. The cache is `folder`/cache.
inline Made make_node(const NodeType& type, const ItemInfo* item, const std::string& node, Json params,
                      std::map<std::string, std::vector<InputArtefact>> inputs, const TempFolder& folder) {
    struct Quiet : Progress {
        void update(double, double, std::string_view) override {}
    } progress;
    const Cancel cancel;
    setenv("BIOPHONY_CACHE", (folder / "cache").c_str(), 1);
    Json schema = type.parameters;
    if (item != nullptr) schema["properties"].update(item->parameters.at("properties"));
    std::vector<Diagnostic> problems;
    apply_schema(schema, params, "", problems);
    for (const Diagnostic& problem : problems) FAIL(problem.text());
    Made made;
    TaskContext context;
    context.node = node;
    context.item = item;
    context.params = params;
    context.registry = &plugins();
    context.inputs = std::move(inputs);
    context.progress = &progress;
    context.cancel = &cancel;
    context.note = [&](std::string_view line) { made.notes += std::string(line) + "\n"; };
    context.log = [](std::string_view) {};
    made.folder = context.out = folder / unique_name();
    fs::create_directories(context.out);
    type.run(context);
    made.set = ClipSet::load(made.folder);
    made.json = read_json(made.folder / "dataset.json");
    return made;
}

}  // namespace biophony::test
