/* account: memory that is counted, for libraries that know no limit by themselves (in the program: JSON values). */
#ifndef HYPURA_ACCOUNT_H
#define HYPURA_ACCOUNT_H

#include "core/core.h"

/* Of one piece of work. */
struct memory_account {
    bool (*lend)(void *context, size_t bytes); /* before it is taken; false: there is none */
    void (*give)(void *context, size_t bytes); /* it was freed */
    void *context;
    bool lenient; /* takes it all the same */
};

/* Of this thread, until it is given another; NULL: nobody counts. */
void memory_set_account(struct memory_account *account);

/* malloc and free that ask the thread's account. What is taken under one may be freed under another, or by free. Memory
 * that is not there is noted (memory_note_failure), what the account does not lend is not: it knows. */
void *memory_take(size_t bytes);
void memory_give(void *memory);

#endif
