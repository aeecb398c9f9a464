/* desk: threads that prepare requests: bodies become JSON, chats become tokens. Both may take seconds, and neither the
 * thread that speaks HTTP nor the one that computes may wait for that.
 *
 * Small tasks are done one by one, in the order of their arrival. Large ones get threads of their own, so that nobody
 * waits for them. */
#ifndef HYPURA_SERVER_DESK_H
#define HYPURA_SERVER_DESK_H

#include "core/core.h"

struct desk;

struct desk_task {
    struct desk_task *next;
    /* The desk is done with the task: it may free itself, or be submitted again. */
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
