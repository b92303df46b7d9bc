# Run by `cmake --install`, behind the program: what names the places it is installed to. With the prefix /usr settings
# belong into /etc, else into PREFIX/etc. DESTDIR stands before all of them, as everywhere.
set(prefix ${CMAKE_INSTALL_PREFIX})
set(BINDIR ${prefix}/bin)
set(DATADIR ${prefix}/share)
set(SYSCONFDIR ${prefix}/etc)
if(prefix STREQUAL "/usr")
  set(SYSCONFDIR /etc)
endif()
foreach(file duo.service serve.toml)
  configure_file(${PACKAGE_SOURCE}/systemd/${file}.in ${PACKAGE_BINARY}/installed/${file} @ONLY)
endforeach()
file(INSTALL ${PACKAGE_BINARY}/installed/duo.service DESTINATION ${prefix}/lib/systemd/system)
if(NOT EXISTS $ENV{DESTDIR}${SYSCONFDIR}/duo/serve.toml)  # else it is somebody's
  file(INSTALL ${PACKAGE_BINARY}/installed/serve.toml DESTINATION ${SYSCONFDIR}/duo)
endif()
# The bundle's: libraries beside the program.
file(RPATH_REMOVE FILE $ENV{DESTDIR}${BINDIR}/duo)
