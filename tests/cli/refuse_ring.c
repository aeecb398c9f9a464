/* A library for LD_PRELOAD: after HYPURA_RING_CALLS calls, io_uring fails with HYPURA_RING_ERRNO. */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>

struct io_uring;

int io_uring_submit_and_wait(struct io_uring *ring, unsigned count) __attribute__((visibility("default")));

int io_uring_submit_and_wait(struct io_uring *ring, unsigned count)
{
    static atomic_int calls;
    const char *good = getenv("HYPURA_RING_CALLS"), *number = getenv("HYPURA_RING_ERRNO");
    int (*real)(struct io_uring *, unsigned) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit_and_wait");
    return atomic_fetch_add(&calls, 1) < atoi(good ? good : "0") ? real(ring, count) : -atoi(number ? number : "9");
}
