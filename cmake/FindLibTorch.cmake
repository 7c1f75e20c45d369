# Finds LibTorch by its headers and the CPU libraries alone, so that a wheel, a distribution's package and a CUDA build
# all serve, and no CUDA toolkit is asked for.
#
#   LibTorch_ROOT   a directory with include/ and lib/ (the `torch` folder of a wheel, an unpacked LibTorch, /usr)
#
# Gives LibTorch_VERSION and the target LibTorch::LibTorch.
find_path(LibTorch_INCLUDE_DIR ATen/ATen.h HINTS ${LibTorch_ROOT}/include)
find_path(LibTorch_API_INCLUDE_DIR torch/nn/module.h
  HINTS ${LibTorch_ROOT}/include/torch/csrc/api/include ${LibTorch_INCLUDE_DIR}/torch/csrc/api/include)
find_library(LibTorch_CPU_LIBRARY torch_cpu HINTS ${LibTorch_ROOT}/lib)
find_library(LibTorch_C10_LIBRARY c10 HINTS ${LibTorch_ROOT}/lib)

# The version macros moved between releases; take the first file that has them.
set(LibTorch_VERSION "")
foreach(header ${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h ${LibTorch_API_INCLUDE_DIR}/torch/version.h)
  if(EXISTS ${header} AND LibTorch_VERSION STREQUAL "")
    file(STRINGS ${header} _lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
    string(REGEX REPLACE "[^0-9;]" "" _numbers "${_lines}")
    list(LENGTH _numbers _count)
    if(_count EQUAL 3)
      string(REPLACE ";" "." LibTorch_VERSION "${_numbers}")
    endif()
  endif()
endforeach()

# Wheels before 2.7 were built with the old string ABI; the library itself says which.
set(LibTorch_CXX11_ABI 1)
if(LibTorch_C10_LIBRARY)
  file(STRINGS ${LibTorch_C10_LIBRARY} _cxx11 REGEX "__cxx1112basic_string" LIMIT_COUNT 1)
  if(NOT _cxx11)
    set(LibTorch_CXX11_ABI 0)
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR LibTorch_API_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION)

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  target_include_directories(LibTorch::LibTorch SYSTEM INTERFACE ${LibTorch_INCLUDE_DIR} ${LibTorch_API_INCLUDE_DIR})
  target_link_libraries(LibTorch::LibTorch INTERFACE ${LibTorch_CPU_LIBRARY} ${LibTorch_C10_LIBRARY})
  target_compile_definitions(LibTorch::LibTorch INTERFACE _GLIBCXX_USE_CXX11_ABI=${LibTorch_CXX11_ABI})
  get_filename_component(LibTorch_LIBRARY_DIR ${LibTorch_CPU_LIBRARY} DIRECTORY)
endif()
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_API_INCLUDE_DIR LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY)
