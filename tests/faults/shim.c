/* A library for LD_PRELOAD that lets the n-th call of some kinds fail, as calls do without memory, files, threads or
 * queues of the kernel. A test controls it through a shared file, which $HYPURA_FAULTS names.
 *
 * It needs Linux with glibc: it takes memory from __libc_malloc and related functions, which need no dlsym. */
#undef _FILE_OFFSET_BITS /* this file defines both open and open64 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#if HYPURA_URING
#include <liburing.h>
#endif
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#pragma GCC visibility push(default) /* these functions override the libraries' */

/* The same values as in faults.py. */
enum kind {
    MEMORY = 1, /* malloc and related functions, and mmap */
    OPENING = 2,
    READING = 4,
    WRITING = 8,
    THREAD = 16,
    RING = 32
};

struct control {
    _Atomic uint32_t kinds;   /* kinds of calls to count; 0: none */
    _Atomic uint32_t lasting; /* whether all calls after number "at" fail, too */
    _Atomic uint64_t at;      /* number of the call that fails, from 1; 0: none */
    _Atomic uint64_t count;   /* calls so far */
    _Atomic uint64_t failed;  /* failed calls so far */
    char where[4000];         /* call stack of the first failure, one frame per line */
};

static struct control *control;
static _Thread_local bool inside __attribute__((tls_model("initial-exec"))); /* the shim's own calls do not count */

static void note_place(void)
{
    void *frames[24];
    size_t used = 0;
    inside = true;
    int count = backtrace(frames, 24);
    for (int i = 2; i < count; i++) {
        Dl_info info = {0};
        const char *name = dladdr(frames[i], &info) && info.dli_fname ? info.dli_fname : "?";
        const char *slash = strrchr(name, '/');
        int size = snprintf(control->where + used, sizeof control->where - used, "%s 0x%lx %s\n",
                            slash ? slash + 1 : name, (unsigned long)((char *)frames[i] - (char *)info.dli_fbase - 1),
                            info.dli_sname ? info.dli_sname : "");
        if (size < 0 || (size_t)size >= sizeof control->where - used)
            break;
        used += (size_t)size;
    }
    inside = false;
}

static bool fails(enum kind kind)
{
    if (!control || inside || !(atomic_load_explicit(&control->kinds, memory_order_relaxed) & kind))
        return false;
    uint64_t number = atomic_fetch_add(&control->count, 1) + 1, at = atomic_load(&control->at);
    bool due = at && (number == at || (number > at && atomic_load(&control->lasting)));
    if (due && atomic_fetch_add(&control->failed, 1) == 0)
        note_place();
    return due;
}

__attribute__((constructor)) static void start(void)
{
    void *frames[2];
    const char *path = getenv("HYPURA_FAULTS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    inside = true;
    backtrace(frames, 2); /* the first call loads a library */
    if (file >= 0) {
        void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (shared != MAP_FAILED)
            control = shared;
    }
    inside = false;
}

/* ---- memory ---- */

void *__libc_malloc(size_t size), *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size), *__libc_memalign(size_t alignment, size_t size);

static bool no_memory(void)
{
    if (!fails(MEMORY))
        return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size)
{
    return no_memory() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return no_memory() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    return no_memory() ? NULL : __libc_realloc(memory, size);
}

void *memalign(size_t alignment, size_t size)
{
    return no_memory() ? NULL : __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return no_memory() ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    if (fails(MEMORY))
        return ENOMEM;
    void *memory = __libc_memalign(alignment, size);
    if (!memory)
        return ENOMEM;
    *out = memory;
    return 0;
}

/* The overridden function of that name. */
static void *next(const char *name)
{
    bool before = inside;
    inside = true;
    void *found = dlsym(RTLD_NEXT, name);
    inside = before;
    if (!found)
        _exit(99);
    return found;
}

#define NEXT(name)                                                                                                     \
    static __typeof__(name) *real;                                                                                     \
    if (!real)                                                                                                         \
    real = (__typeof__(real))next(#name)

void *mmap(void *address, size_t size, int protection, int flags, int file, off_t offset)
{
    NEXT(mmap);
    return no_memory() ? MAP_FAILED : real(address, size, protection, flags, file, offset);
}

void *mmap64(void *address, size_t size, int protection, int flags, int file, off64_t offset)
{
    NEXT(mmap64);
    return no_memory() ? MAP_FAILED : real(address, size, protection, flags, file, offset);
}

/* ---- files ---- */

static bool refused(enum kind kind, int number)
{
    if (!fails(kind))
        return false;
    errno = number;
    return true;
}

static mode_t mode_of(int flags, va_list arguments)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        NEXT(name);                                                                                                    \
        va_list arguments;                                                                                             \
        va_start(arguments, flags);                                                                                    \
        mode_t mode = mode_of(flags, arguments);                                                                       \
        va_end(arguments);                                                                                             \
        return refused(OPENING, EMFILE) ? -1 : real(path, flags, mode);                                                \
    }
OPEN(open)
OPEN(open64)

#define OPEN_STREAM(name)                                                                                              \
    FILE *name(const char *path, const char *mode)                                                                     \
    {                                                                                                                  \
        NEXT(name);                                                                                                    \
        return refused(OPENING, EMFILE) ? NULL : real(path, mode);                                                     \
    }
OPEN_STREAM(fopen)
OPEN_STREAM(fopen64)

DIR *opendir(const char *path)
{
    NEXT(opendir);
    return refused(OPENING, EMFILE) ? NULL : real(path);
}

ssize_t read(int file, void *out, size_t size)
{
    NEXT(read);
    return refused(READING, EIO) ? -1 : real(file, out, size);
}

ssize_t pread(int file, void *out, size_t size, off_t offset)
{
    NEXT(pread);
    return refused(READING, EIO) ? -1 : real(file, out, size, offset);
}

ssize_t pread64(int file, void *out, size_t size, off64_t offset)
{
    NEXT(pread64);
    return refused(READING, EIO) ? -1 : real(file, out, size, offset);
}

#define ERROR_SEEN 0x20 /* glibc's _IO_ERR_SEEN */

size_t fread(void *out, size_t size, size_t count, FILE *file)
{
    NEXT(fread);
    if (!refused(READING, EIO))
        return real(out, size, count, file);
    file->_flags |= ERROR_SEEN;
    return 0;
}

/* A write that wakes another thread cannot fail. */
static bool wakes(int file)
{
    char path[40], target[16] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return readlink(path, target, sizeof target - 1) > 0 && strncmp(target, "anon_inode:", 11) == 0;
}

ssize_t write(int file, const void *bytes, size_t size)
{
    NEXT(write);
    return control && (atomic_load(&control->kinds) & WRITING) && !wakes(file) && refused(WRITING, ENOSPC)
               ? -1
               : real(file, bytes, size);
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t offset)
{
    NEXT(pwrite);
    return refused(WRITING, ENOSPC) ? -1 : real(file, bytes, size, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset)
{
    NEXT(pwrite64);
    return refused(WRITING, ENOSPC) ? -1 : real(file, bytes, size, offset);
}

int fsync(int file)
{
    NEXT(fsync);
    return refused(WRITING, EIO) ? -1 : real(file);
}

int ftruncate64(int file, off64_t size)
{
    NEXT(ftruncate64);
    return refused(WRITING, EIO) ? -1 : real(file, size);
}

int rename(const char *from, const char *to)
{
    NEXT(rename);
    return refused(WRITING, EIO) ? -1 : real(from, to);
}

int fflush(FILE *file)
{
    NEXT(fflush);
    if (!refused(WRITING, ENOSPC))
        return real(file);
    if (file)
        file->_flags |= ERROR_SEEN;
    return EOF;
}

/* ---- threads ---- */

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context)
{
    NEXT(pthread_create);
    return fails(THREAD) ? EAGAIN : real(thread, attributes, run, context);
}

/* ---- queues of the kernel ---- */

#if HYPURA_URING
int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    NEXT(io_uring_queue_init);
    return fails(RING) ? -ENOMEM : real(entries, ring, flags);
}

int io_uring_submit(struct io_uring *ring)
{
    NEXT(io_uring_submit);
    return fails(RING) ? -EAGAIN : real(ring);
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned count)
{
    NEXT(io_uring_submit_and_wait);
    return fails(RING) ? -EAGAIN : real(ring, count);
}
#endif
