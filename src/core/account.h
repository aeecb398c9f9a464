/* account: counted allocations for libraries that have no memory limit of their own: for JSON values, unless another
 * program, which uses the shared library, has given jansson its own functions. */
#ifndef HYPURA_ACCOUNT_H
#define HYPURA_ACCOUNT_H

#include "core/core.h"

/* Counts the memory of one piece of work. The caller owns it and keeps it alive while a thread uses it. */
struct memory_account {
    void (*lend)(void *context, size_t bytes); /* called before an allocation, which it cannot refuse */
    void (*give)(void *context, size_t bytes); /* called when memory is freed */
    void *context;
};

/* Sets the account of the calling thread. NULL: allocations are not counted. */
void memory_set_account(struct memory_account *account);

/* malloc and free, counted by the thread's account. Memory taken under one account may be freed under another, or with
 * free. memory_take notes a failed malloc (memory_note_failure). */
void *memory_take(size_t bytes);
void memory_give(void *memory);

/* Memory for the thread's next memory_take, so that it cannot fail. Initialise with zeros. */
struct memory_advance {
    void *memory; /* NULL: none, or used */
    size_t bytes;
    size_t used; /* the bytes of the last memory_take that used an advance; 0: none did */
};

/* Takes the memory, unless an earlier advance is still unused. false: there is none. Only one advance of a thread can
 * be in use; memory_end_advance frees it. */
bool memory_advance(struct memory_advance *advance, size_t bytes);
void memory_end_advance(struct memory_advance *advance);

#endif
