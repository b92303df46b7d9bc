# Run by the install step of `cmake --build build --target bundle`: copies the shared libraries that the installed
# program needs into lib/ beside it, where its rpath looks. Left to the machine it runs on: the C and C++ runtimes, MPI,
# and whatever belongs to the GPU (CUDA, cuDNN, NCCL, the driver), which must fit that machine and not this one.
set(program ${CMAKE_INSTALL_PREFIX}/duo)
file(GET_RUNTIME_DEPENDENCIES EXECUTABLES ${program} RESOLVED_DEPENDENCIES_VAR libraries
     UNRESOLVED_DEPENDENCIES_VAR missing
     PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|util|pthread|resolv)\\.so" "^libstdc\\+\\+\\." "^libgcc_s\\."
                         "^libmpi" "^libopen-(rte|pal)" "^libcuda" "^libcu(blas|dnn|fft|rand|solver|sparse)" "^libnv" "^libnccl")
if(missing)
  message(FATAL_ERROR "bundle: libraries not found: ${missing}")
endif()
file(INSTALL ${libraries} DESTINATION ${CMAKE_INSTALL_PREFIX}/lib FOLLOW_SYMLINK_CHAIN)
