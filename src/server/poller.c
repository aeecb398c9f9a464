#include "server/poller.h"

#include <unistd.h>

#ifdef __linux__

#include <sys/epoll.h>

#define MOST_EVENTS 256

struct poller {
    int file;
    struct epoll_event events[MOST_EVENTS];
};

hypura_status poller_create(struct poller **out, hypura_error *error)
{
    struct poller *poller;
    hypura_status status = ALLOCATE(&poller, 1, "connections", error);
    if (status)
        return status;
    poller->file = epoll_create1(EPOLL_CLOEXEC);
    if (poller->file < 0) {
        memory_free(poller);
        return error_set(error, HYPURA_ERROR_IO, "cannot create an epoll instance for connections");
    }
    *out = poller;
    return HYPURA_OK;
}

void poller_destroy(struct poller *poller)
{
    if (!poller)
        return;
    close(poller->file);
    memory_free(poller);
}

static bool control(struct poller *poller, int call, int file, unsigned wanted, void *what)
{
    struct epoll_event event = {.events = (wanted & POLLER_READ ? (uint32_t)EPOLLIN : 0) |
                                          (wanted & POLLER_WRITE ? (uint32_t)EPOLLOUT : 0),
                                .data.ptr = what};
    return epoll_ctl(poller->file, call, file, &event) == 0;
}

bool poller_add(struct poller *poller, int file, unsigned wanted, void *what)
{
    return control(poller, EPOLL_CTL_ADD, file, wanted, what);
}

bool poller_change(struct poller *poller, int file, unsigned wanted, void *what)
{
    return control(poller, EPOLL_CTL_MOD, file, wanted, what);
}

void poller_remove(struct poller *poller, int file)
{
    control(poller, EPOLL_CTL_DEL, file, 0, NULL);
}

size_t poller_wait(struct poller *poller, struct poller_event *events, size_t room, int milliseconds)
{
    int count = epoll_wait(poller->file, poller->events, (int)MIN(room, (size_t)MOST_EVENTS), milliseconds);
    for (int i = 0; i < count; i++) {
        uint32_t got = poller->events[i].events;
        events[i].what = poller->events[i].data.ptr;
        events[i].ready = (got & EPOLLIN ? POLLER_READ : 0u) | (got & EPOLLOUT ? POLLER_WRITE : 0u) |
                          (got & (EPOLLERR | EPOLLHUP) ? POLLER_ENDED : 0u);
    }
    return count > 0 ? (size_t)count : 0;
}

#else

#include <poll.h>

struct poller {
    struct pollfd *files;
    void **whats;
    size_t count, next; /* next: where the search for ready sockets starts, so that none starves */
};

hypura_status poller_create(struct poller **out, hypura_error *error)
{
    return ALLOCATE(out, 1, "connections", error);
}

void poller_destroy(struct poller *poller)
{
    if (!poller)
        return;
    memory_free(poller->files);
    memory_free(poller->whats);
    memory_free(poller);
}

static short asked(unsigned wanted)
{
    return (short)((wanted & POLLER_READ ? POLLIN : 0) | (wanted & POLLER_WRITE ? POLLOUT : 0));
}

bool poller_add(struct poller *poller, int file, unsigned wanted, void *what)
{
    size_t count = poller->count;
    if (memory_resize((void **)&poller->files, count, count + 1, sizeof *poller->files, "connections", NULL) ||
        memory_resize((void **)&poller->whats, count, count + 1, sizeof *poller->whats, "connections", NULL))
        return false;
    poller->files[count] = (struct pollfd){.fd = file, .events = asked(wanted)};
    poller->whats[count] = what;
    poller->count++;
    return true;
}

static size_t find(const struct poller *poller, int file)
{
    size_t i = 0;
    while (i < poller->count && poller->files[i].fd != file)
        i++;
    return i;
}

bool poller_change(struct poller *poller, int file, unsigned wanted, void *what)
{
    size_t i = find(poller, file);
    if (i == poller->count)
        return false;
    poller->files[i].events = asked(wanted);
    poller->whats[i] = what;
    return true;
}

void poller_remove(struct poller *poller, int file)
{
    size_t i = find(poller, file);
    if (i == poller->count)
        return;
    poller->count--;
    poller->files[i] = poller->files[poller->count];
    poller->whats[i] = poller->whats[poller->count];
}

size_t poller_wait(struct poller *poller, struct poller_event *events, size_t room, int milliseconds)
{
    size_t found = 0;
    if (poll(poller->files, (nfds_t)poller->count, milliseconds) <= 0)
        return 0;
    for (size_t i = 0; i < poller->count && found < room; i++) {
        size_t at = (poller->next + i) % poller->count;
        short got = poller->files[at].revents;
        if (got)
            events[found++] = (struct poller_event){
                poller->whats[at], (got & POLLIN ? POLLER_READ : 0u) | (got & POLLOUT ? POLLER_WRITE : 0u) |
                                       (got & (POLLERR | POLLHUP | POLLNVAL) ? POLLER_ENDED : 0u)};
    }
    poller->next = poller->count ? (poller->next + 1) % poller->count : 0;
    return found;
}

#endif
