/* desk: the threads that prepare what requests ask for, next to the one that speaks HTTP and the one that computes:
 * bodies become JSON, chats become tokens. Both may take seconds, and neither of the two may wait for that.
 *
 * Small tasks are done one after the other, in the order in which they come. Large ones have threads of their own, so
 * that nobody waits for them. */
#ifndef HYPURA_SERVER_DESK_H
#define HYPURA_SERVER_DESK_H

#include "core/core.h"

struct desk;

struct desk_task {
    struct desk_task *next;
    /* The task is not the desk's any more: it may free itself, or be submitted again. */
    void (*work)(struct desk_task *task);
    size_t bytes; /* of the request, more or less */
};

hypura_status desk_create(struct desk **out, hypura_error *error);

/* Any thread. */
void desk_submit(struct desk *desk, struct desk_task *task);
bool desk_is_idle(struct desk *desk);

/* Does what was submitted, and what that submits. NULL is fine. */
void desk_destroy(struct desk *desk);

#endif
