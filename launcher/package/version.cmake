# Read by cpack when it runs: each commit is a newer package, so that apt upgrades from one to the next.
if(NOT CPACK_DEBIAN_PACKAGE_VERSION)
  set(CPACK_DEBIAN_PACKAGE_VERSION ${CPACK_PACKAGE_VERSION})
  execute_process(COMMAND git rev-list --count HEAD WORKING_DIRECTORY ${CPACK_DUO_SOURCE}
                  OUTPUT_VARIABLE count OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  execute_process(COMMAND git rev-parse --short=12 HEAD WORKING_DIRECTORY ${CPACK_DUO_SOURCE}
                  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(count)
    string(APPEND CPACK_DEBIAN_PACKAGE_VERSION "+${count}.g${commit}")
  endif()
endif()
