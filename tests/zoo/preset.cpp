// Beside its data set a merger that stands for others: there is no code for it.
#include "zoo.hpp"

ZOO_ITEMS(ZOO_ITEM("zoo-preset-data") ", "
    "{\"kind\": \"merger\", \"id\": \"zoo-preset\", \"interface\": \"biophony.merger/0\", \"tier\": \"S\", "
    "\"merger\": {\"preset\": [{\"use\": \"merger:average\", \"with\": {\"by\": {\"parameter\": \"by\"}}}]}, "
    "\"parameters\": {\"type\": \"object\", \"properties\": {\"by\": {\"type\": \"number\"}}}}")
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("zoo-preset-data"))
