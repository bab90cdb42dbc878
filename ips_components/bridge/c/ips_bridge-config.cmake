# Found by find_package(ips_bridge): builds the bridge from its source, as part of the project.
if(NOT TARGET ips_bridge)
    add_subdirectory("${CMAKE_CURRENT_LIST_DIR}" "${CMAKE_BINARY_DIR}/ips_bridge")
endif()
