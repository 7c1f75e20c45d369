// A pipeline's graph as a picture's text: Graphviz, Mermaid, or JSON.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "pipeline/graph.hpp"

namespace biophony {

/// What is drawn: a node, or all nodes that one key of the text stands for.
struct Box {
    std::string name;    ///< "expert[bird]"; collapsed "expert[taxon]"
    std::string use;     ///< "fine-tune", "encoder:beats"; collapsed "several" where the nodes differ
    std::string output;  ///< port type
    bool implied = false;
    size_t count = 1;
};

struct Diagram {
    std::string name;
    struct Edge {
        size_t from = 0, to = 0;  ///< boxes
        std::string port;         ///< of `to`
    };
    std::vector<Box> boxes;
    std::vector<Edge> edges;
};

/// One box per node, or `collapsed` one per key of the text; then implied nodes of a type that one node, or the same
/// feature, stands for are one box.
Diagram diagram_of(const Graph& graph, bool collapsed);

std::string as_dot(const Diagram& diagram);
std::string as_mermaid(const Diagram& diagram);
Json as_json(const Diagram& diagram);

}  // namespace biophony
