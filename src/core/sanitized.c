/* Settings of the sanitizers: what they find in libraries of others. Vulkan and MPI drivers keep memory until the
 * process ends; this program has no leak there. */
#include "core/sanitized.h"

#if SANITIZED

#define SEEN_BY_LIBRARIES __attribute__((visibility("default")))

SEEN_BY_LIBRARIES int dlclose(void *library);
SEEN_BY_LIBRARIES const char *__lsan_default_options(void);
SEEN_BY_LIBRARIES const char *__lsan_default_suppressions(void);
SEEN_BY_LIBRARIES const char *__tsan_default_suppressions(void);

/* Keeps libraries loaded, because suppressions go by the library that allocated the memory. */
int dlclose(void *library)
{
    (void)library;
    return 0;
}

/* A list of the suppressed leaks would look like a report. */
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
           "leak:vasprintf\n"; /* called by these libraries only; its frames hide which one called it */
}

/* Open MPI's TCP transport takes two of its locks in either order, but only on the thread that sets it up and ends it.
 */
const char *__tsan_default_suppressions(void)
{
    return "deadlock:mca_btl_tcp\n";
}

#endif
