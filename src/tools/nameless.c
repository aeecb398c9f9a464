#include "tools/nameless.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int file_nameless(void)
{
#ifdef __linux__
    return memfd_create("model", MFD_CLOEXEC);
#else
    char name[] = "/tmp/hypura-header-XXXXXX";
    int descriptor = mkstemp(name);
    if (descriptor >= 0)
        unlink(name);
    return descriptor;
#endif
}
