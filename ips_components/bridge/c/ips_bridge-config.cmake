# Found by find_package(ips_bridge): the installed library, or its source, built as part of the
# project.
if(NOT TARGET ips_bridge::ips_bridge)
    if(EXISTS "${CMAKE_CURRENT_LIST_DIR}/ips_bridge-targets.cmake")
        include("${CMAKE_CURRENT_LIST_DIR}/ips_bridge-targets.cmake")
    else()
        add_subdirectory("${CMAKE_CURRENT_LIST_DIR}" "${CMAKE_BINARY_DIR}/ips_bridge")
    endif()
endif()
