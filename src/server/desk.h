/* The desk: threads that prepare requests. They parse bodies and turn chats into tokens. Both may take seconds, for
 * which neither the HTTP thread nor the worker may block.
 *
 * One thread does small tasks in the order of arrival. Large ones run on threads of their own, so that small ones do
 * not wait for them. */
#ifndef HYPURA_SERVER_DESK_H
#define HYPURA_SERVER_DESK_H

#include "core/core.h"

struct desk;

struct desk_task {
    struct desk_task *next;
    /* Called once. The desk does not touch the task afterwards, so it may free itself or submit itself again. */
    void (*work)(struct desk_task *task);
    size_t bytes; /* approximate size of the request; decides between small and large */
};

hypura_status desk_create(struct desk **out, hypura_error *error);

/* From any thread. */
void desk_submit(struct desk *desk, struct desk_task *task);
bool desk_is_idle(struct desk *desk);

/* Finishes all submitted tasks, and those that they submit. NULL is allowed. */
void desk_destroy(struct desk *desk);

#endif
