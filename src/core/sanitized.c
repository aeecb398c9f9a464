/* What the sanitizers are told of libraries that are not ours. Drivers of Vulkan and MPI keep memory until the process
 * ends, and that is no leak of this program. */
#include "core/sanitized.h"

#if SANITIZED

#define SEEN_BY_LIBRARIES __attribute__((visibility("default")))

SEEN_BY_LIBRARIES int dlclose(void *library);
SEEN_BY_LIBRARIES const char *__lsan_default_options(void);
SEEN_BY_LIBRARIES const char *__lsan_default_suppressions(void);

/* A leak is told by the library that asked for the memory, so each stays where it is until they have been looked at. */
int dlclose(void *library)
{
    (void)library;
    return 0;
}

/* What is left out is no report, so it is not written where reports are. */
const char *__lsan_default_options(void)
{
    return "print_suppressions=0";
}

const char *__lsan_default_suppressions(void)
{
    return "leak:libvulkan\n" /* the loader, and the drivers of Mesa */
           "leak:libVkLayer\n"
           "leak:libLLVM\n"
           "leak:libmpi\n"
           "leak:libopen-pal\n"
           "leak:libopen-rte\n"
           "leak:libpmix\n"
           "leak:libhwloc\n"
           "leak:/openmpi\n"
           "leak:vasprintf\n"; /* these libraries write texts by it, and hide who asked for them; nobody here calls it */
}

#endif
