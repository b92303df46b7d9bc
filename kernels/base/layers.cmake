# duo_layer(TARGET FOLDERS FOLDER .. MAY_INCLUDE FOLDER ..): holds the sources of some folders to the headers that they may
# use. Their own folders are always allowed; whatever else the tree holds must be named. The check runs with the build, so
# that an include which points up fails it and says where.
set(DUO_CHECK_INCLUDES ${CMAKE_CURRENT_LIST_DIR}/check_includes.cmake)

function(duo_layer target)
  cmake_parse_arguments(LAYER "" "" "FOLDERS;MAY_INCLUDE" ${ARGN})
  set(files "")
  foreach(folder ${LAYER_FOLDERS})
    set(stem ${CMAKE_SOURCE_DIR}/${folder})
    file(GLOB found CONFIGURE_DEPENDS ${stem}/*.h ${stem}/*.cc ${stem}/*.cu ${stem}/*.cuh)
    list(APPEND files ${found})
  endforeach()
  set(stamp ${CMAKE_BINARY_DIR}/layers/${target})
  string(REPLACE ";" "," listed "${files}")
  string(REPLACE ";" "," allowed "${LAYER_FOLDERS};${LAYER_MAY_INCLUDE}")
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/layers)
  file(WRITE ${stamp}.files "${listed}")
  add_custom_command(
    OUTPUT ${stamp}
    COMMAND ${CMAKE_COMMAND} -DROOT=${CMAKE_SOURCE_DIR} -DLAYER=${target} -DFILES=${stamp}.files -DALLOWED=${allowed}
            -P ${DUO_CHECK_INCLUDES}
    COMMAND ${CMAKE_COMMAND} -E touch ${stamp}
    DEPENDS ${files} ${DUO_CHECK_INCLUDES}
    COMMENT "Checking the includes of ${target}" VERBATIM)
  add_custom_target(${target}_layer DEPENDS ${stamp})
  add_dependencies(${target} ${target}_layer)
endfunction()

# duo_folder(TARGET FOLDER MAY_INCLUDE FOLDER ..): the object library of one folder's sources, held to its layer.
function(duo_folder target folder)
  cmake_parse_arguments(FOLDER "" "" "MAY_INCLUDE" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.cc)
  add_library(${target} OBJECT ${sources})
  duo_use_precompiled(${target} duo_common_headers)
  duo_layer(${target} FOLDERS ${folder} MAY_INCLUDE ${FOLDER_MAY_INCLUDE})
endfunction()
