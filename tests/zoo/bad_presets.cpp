// Mergers whose manifests say what can't be, to be told all at once.
#include "zoo.hpp"

#define ZOO_MERGER(id, merger)                                                       \
    "{\"kind\": \"merger\", \"id\": \"" id                                           \
    "\", \"interface\": \"biophony.merger/0\", \"tier\": \"S\", \"merger\": " merger \
    ", \"parameters\": {\"type\": \"object\", \"properties\": {\"density\": {\"type\": \"number\"}}}}"

ZOO_ITEMS(
    ZOO_MERGER("both", "{\"preset\": [{\"use\": \"merger:average\"}], \"stage\": \"combine\"}") ", "
    ZOO_MERGER("none", "{\"preset\": []}") ", "
    ZOO_MERGER("other", "{\"preset\": [{\"use\": \"dataset:table\"}]}") ", "
    ZOO_MERGER("misspelt", "{\"preset\": [{\"use\": \"merger:trim\", \"with\": {\"density\": {\"parameter\": \"densty\"}}}]}") ", "
    ZOO_MERGER("roles", "{\"stage\": \"combine\", \"scope\": \"tensor\", \"space\": \"delta\", \"roles\": [\"matrix\"]}"))
BIOPHONY_PLUGIN(biophony::sdk::dataset<zoo::Empty>("none"))
