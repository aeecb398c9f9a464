#include "core/account.h"

#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __APPLE__
#include <malloc/malloc.h>
#endif

static _Thread_local struct memory_account *account;
static _Thread_local struct memory_advance *advanced;

void memory_set_account(struct memory_account *next)
{
    account = next;
}

/* The bytes that malloc takes for a request of this size, with its overhead. */
static size_t whole_bytes(size_t bytes)
{
    return MAX((size_t)32, (size_t)align_up(MIN((uint64_t)bytes, UINT64_MAX / 2) + sizeof(size_t), 16));
}

/* The bytes that malloc took for this allocation. 0 if the C library cannot tell: then nothing is given back. */
static size_t taken_bytes(void *memory)
{
#if defined(__GLIBC__)
    return malloc_usable_size(memory) + sizeof(size_t);
#elif defined(__APPLE__)
    return whole_bytes(malloc_size(memory));
#else
    (void)memory;
    return 0;
#endif
}

void *memory_take(size_t bytes)
{
    struct memory_advance *advance = advanced;
    if (advance && advance->memory && bytes <= advance->bytes) {
        void *memory = advance->memory;
        advance->memory = NULL;
        advance->used = bytes;
        return memory;
    }
    if (account)
        account->lend(account->context, whole_bytes(bytes));
    void *memory = malloc(bytes);
    if (!memory)
        memory_note_failure();
    return memory;
}

void memory_give(void *memory)
{
    if (account && memory)
        account->give(account->context, taken_bytes(memory));
    free(memory);
}

bool memory_advance(struct memory_advance *advance, size_t bytes)
{
    advanced = advance;
    if (!advance->memory) {
        advance->bytes = bytes;
        advance->memory = memory_take(bytes);
    }
    return advance->memory != NULL;
}

void memory_end_advance(struct memory_advance *advance)
{
    advanced = NULL;
    memory_give(advance->memory);
    advance->memory = NULL;
}
