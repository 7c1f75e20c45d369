# Writes a file, good as C and as C++, that puts plugin.json into the section "bph_meta", with a "build" field: the
# SHA-256 over the hashes of INPUTS (a list) and of the manifest. Names of folders don't enter it, so a moved checkout
# builds the same.
file(READ "${MANIFEST}" text)
string(JSON version ERROR_VARIABLE problem GET "${text}" biophony_manifest)
if(problem)
  message(FATAL_ERROR "${MANIFEST}: ${problem}; expected an object with \"biophony_manifest\": 1")
endif()
set(hashes "")
foreach(input ${INPUTS} "${MANIFEST}")
  get_filename_component(input_name "${input}" NAME)
  file(SHA256 "${input}" hash)
  string(APPEND hashes "${input_name} ${hash}\n")
endforeach()
string(SHA256 build "${hashes}")
string(JSON text SET "${text}" build "\"${build}\"")
file(WRITE "${OUTPUT}.json" "${text}")
file(READ "${OUTPUT}.json" hex HEX)
string(LENGTH "${hex}" length)
math(EXPR length "${length} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE "${OUTPUT}" "/* Made from ${MANIFEST}; do not edit. */
#include <stddef.h>
#ifdef __cplusplus
extern \"C\" {
#endif
extern const char bph_manifest[];
extern const size_t bph_manifest_size;
__attribute__((used, retain, section(\"bph_meta\"), visibility(\"hidden\"))) const char bph_manifest[] = {${bytes}};
__attribute__((visibility(\"hidden\"))) const size_t bph_manifest_size = ${length};
#ifdef __cplusplus
}
#endif
")
