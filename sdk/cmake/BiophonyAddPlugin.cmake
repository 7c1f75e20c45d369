# biophony_add_plugin(NAME SOURCES file… [MANIFEST plugin.json] [TORCH])
#
# Builds one plugin library, NAME.so, as the host wants it: one exported symbol, hidden visibility, no undefined
# symbols, and the manifest, with a build identity over all of its sources, in the section "bph_meta".
#   MANIFEST   the manifest's text; plugin.json of the current folder where it isn't given
#   TORCH      tier T: links LibTorch::LibTorch, which must be there (find_package(biophony-sdk COMPONENTS torch))
function(biophony_add_plugin name)
  cmake_parse_arguments(arg "TORCH" "MANIFEST" "SOURCES" ${ARGN})
  if(NOT arg_MANIFEST)
    set(arg_MANIFEST ${CMAKE_CURRENT_SOURCE_DIR}/plugin.json)
  endif()
  add_library(${name} MODULE ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE biophony::sdk)
  if(arg_TORCH)
    target_link_libraries(${name} PRIVATE LibTorch::LibTorch)
  endif()
  set_target_properties(${name} PROPERTIES
    PREFIX "" SUFFIX ".so"
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    POSITION_INDEPENDENT_CODE ON
    BUILD_RPATH "" INSTALL_RPATH "" SKIP_BUILD_RPATH ON
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/plugins)
  set(_sanitized "${CMAKE_CXX_FLAGS} ${BIOPHONY_SANITIZE}")
  target_link_options(${name} PRIVATE -Wl,--version-script=${BIOPHONY_SDK_CMAKE_DIR}/plugin.map)
  if(NOT _sanitized MATCHES "sanitize|address|thread")
    target_link_options(${name} PRIVATE -Wl,-z,defs)  # a sanitizer's run-time library lives in the executable
  endif()

  # The build identity covers what the library is built from: its folder, its sources, and the SDK's headers, but for
  # those that speak of kinds that it doesn't have. philox.hpp is for whoever draws; encoders draw from LibTorch's
  # generator, which the host seeds, so a library of encoders alone doesn't count it.
  file(GLOB _own CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/*.hpp
    ${CMAKE_CURRENT_SOURCE_DIR}/*.h ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  file(GLOB_RECURSE _sdk CONFIGURE_DEPENDS ${BIOPHONY_SDK_INCLUDE_DIR}/biophony/*.h
    ${BIOPHONY_SDK_INCLUDE_DIR}/biophony/*.hpp)
  file(READ ${arg_MANIFEST} _manifest)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${arg_MANIFEST})
  set(_colon "[ \t\r\n]*:[ \t\r\n]*")
  if(NOT _manifest MATCHES "\"kind\"${_colon}\"merger\"")
    list(FILTER _sdk EXCLUDE REGEX "/biophony/(c/)?(merger|linalg)\\.")
    if(arg_TORCH)
      list(FILTER _sdk EXCLUDE REGEX "/biophony/philox\\.")
    endif()
  endif()
  if(NOT _manifest MATCHES "\"kind\"${_colon}\"dataset\"")
    list(FILTER _sdk EXCLUDE REGEX "/biophony/(c/)?dataset\\.")
  endif()
  if(NOT arg_TORCH)
    list(FILTER _sdk EXCLUDE REGEX "/biophony/torch/")
  endif()
  set(_inputs ${_own} ${_sdk})
  foreach(source ${arg_SOURCES})
    get_filename_component(source ${source} ABSOLUTE)
    list(APPEND _inputs ${source})
  endforeach()
  list(REMOVE_DUPLICATES _inputs)
  list(SORT _inputs)
  get_property(_languages GLOBAL PROPERTY ENABLED_LANGUAGES)
  set(_extension cpp)
  if("C" IN_LIST _languages)
    set(_extension c)
  endif()
  set(_manifest_c ${CMAKE_CURRENT_BINARY_DIR}/${name}.manifest.${_extension})
  add_custom_command(OUTPUT ${_manifest_c}
    COMMAND ${CMAKE_COMMAND} "-DMANIFEST=${arg_MANIFEST}" "-DOUTPUT=${_manifest_c}" "-DINPUTS=${_inputs}"
      -P ${BIOPHONY_SDK_CMAKE_DIR}/embed_manifest.cmake
    DEPENDS ${arg_MANIFEST} ${_inputs} ${BIOPHONY_SDK_CMAKE_DIR}/embed_manifest.cmake
    COMMENT "manifest of ${name}" VERBATIM)
  target_sources(${name} PRIVATE ${_manifest_c})
  set_property(GLOBAL APPEND PROPERTY BIOPHONY_PLUGINS ${name})
endfunction()
