# Writes build_info.cc from its template, with the commit that is checked out now. Run by every build: the file changes
# only where the commit does, and only the program itself is linked with it.
#   cmake -DSOURCE=DIR -DOUT=FILE -DVERSION=V -DOPTIONS=TEXT -P build_info.cmake
set(COMMIT "")
find_program(GIT git)
if(GIT AND EXISTS ${SOURCE}/.git)
  execute_process(COMMAND ${GIT} describe --always --dirty --abbrev=12 --exclude * WORKING_DIRECTORY ${SOURCE}
                  OUTPUT_VARIABLE COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/build_info.cc.in ${OUT} @ONLY)
