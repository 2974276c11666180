# Read by CMake after each project() of llama-cpp-python and llama.cpp (CMAKE_PROJECT_<name>_INCLUDE,
# scripts/setup/machine.py), to build no more than the wheel needs, and that with less work.

if(PROJECT_NAME STREQUAL "llama.cpp")
  # What command-line programs share, and an HTTP library for them. llama-cpp-python turns it on and
  # installs none of it, nor does libmtmd use it (tools/mtmd/CMakeLists.txt refuses to).
  set(LLAMA_BUILD_COMMON OFF)
else()
  # The graphs of libmtmd's towers: many small files that read the same headers, compiled together as
  # llama.cpp compiles its own models. The others have names that would clash.
  function(llava_compile_towers_together)
    if(NOT TARGET mtmd)
      return()
    endif()
    get_target_property(sources mtmd SOURCES)
    list(FILTER sources EXCLUDE REGEX "^models/")
    get_target_property(folder mtmd SOURCE_DIR)
    list(TRANSFORM sources PREPEND "${folder}/")
    set_source_files_properties(${sources} DIRECTORY "${folder}"
                                PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    set_target_properties(mtmd PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 16)
  endfunction()
  cmake_language(DEFER CALL llava_compile_towers_together)
endif()
