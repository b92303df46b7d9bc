# Half of the time that most files take to compile is the standard library's and abseil's headers. They are read once, into
# a precompiled header, for all files that are compiled by the same flags. Every file still includes what it uses: builds
# without this (-DDUO_PRECOMPILE=OFF; presets debug and fuzz) would fail on one that does not.
option(DUO_PRECOMPILE "Read the headers that most files include once" ON)
set(DUO_COMMON_HEADERS
  <algorithm> <atomic> <chrono> <cmath> <condition_variable> <cstdint> <cstring> <deque> <filesystem> <fstream> <functional>
  <map> <memory> <mutex> <optional> <random> <set> <span> <string> <string_view> <thread> <unordered_map> <utility> <variant>
  <vector>
  <absl/container/flat_hash_map.h> <absl/status/statusor.h> <absl/strings/str_cat.h> <absl/strings/str_format.h>
  <absl/strings/str_join.h> <absl/strings/str_split.h>)

# duo_precompiled_headers(NAME HEADER ..): compiles these with the flags that hold here.
function(duo_precompiled_headers name)
  if(DUO_PRECOMPILE)
    file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${name}.cc CONTENT "")
    add_library(${name} OBJECT ${CMAKE_CURRENT_BINARY_DIR}/${name}.cc)
    target_link_libraries(${name} PRIVATE absl::statusor absl::strings absl::str_format absl::flat_hash_map)
    target_precompile_headers(${name} PRIVATE ${ARGN})
  endif()
endfunction()

# duo_use_precompiled(TARGET NAME): its C++ files begin with these.
function(duo_use_precompiled target name)
  if(DUO_PRECOMPILE)
    target_precompile_headers(${target} REUSE_FROM ${name})
  endif()
endfunction()
