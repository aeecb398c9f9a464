/* account: counted allocations for libraries that have no memory limit of their own (in the program: JSON values). */
#ifndef HYPURA_ACCOUNT_H
#define HYPURA_ACCOUNT_H

#include "core/core.h"

/* Counts the memory of one piece of work. The caller owns it and keeps it alive while a thread uses it. */
struct memory_account {
    void (*lend)(void *context, size_t bytes); /* called before an allocation; it cannot refuse: jansson fails badly */
    void (*give)(void *context, size_t bytes); /* called when memory is freed */
    void *context;
};

/* Sets the account of the calling thread. NULL: allocations are not counted. */
void memory_set_account(struct memory_account *account);

/* malloc and free, counted by the thread's account. Memory taken under one account may be freed under another, or with
 * free. memory_take notes a failed malloc (memory_note_failure). */
void *memory_take(size_t bytes);
void memory_give(void *memory);

#endif
