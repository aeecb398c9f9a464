#include "core/samples.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

bool samples_read(int file, uint8_t *out, size_t bytes, uint64_t offset)
{
    for (size_t have = 0; have < bytes;) {
        ssize_t got = pread(file, out + have, bytes - have, (off_t)(offset + have));
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        have += got > 0 ? (size_t)got : 0;
    }
    return true;
}

int samples_open(const char *path)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
#ifdef POSIX_FADV_RANDOM
    if (file >= 0)
        posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
#endif
    return file;
}
