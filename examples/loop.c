/* Many answers on one thread: loop MODEL.gguf PROMPT... An event loop can wait for a session's descriptor as it waits
 * for sockets. */
#include <hypura/hypura.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 64 };

static hypura_session *sessions[MOST];
static struct pollfd files[MOST];

/* Takes all available events. Returns whether the answer continues. */
static bool take_events(size_t i)
{
    const hypura_event *event;
    hypura_error error;
    for (;;) {
        if (hypura_next(sessions[i], 0, &event, &error)) {
            printf("%zu: %s\n", i, error.message);
            return false;
        }
        if (!event)
            return true;
        if (event->kind == HYPURA_EVENT_CONTENT)
            printf("%zu: %s\n", i, event->text);
        if (event->kind == HYPURA_EVENT_END) {
            const hypura_result *result = hypura_session_result(sessions[i]);
            printf("%zu: ended (%s) after %u tokens\n", i, hypura_finish_name(result->finish), result->answer_tokens);
            return false;
        }
    }
}

static hypura_status start(hypura_model *model, size_t i, const char *prompt, hypura_error *error)
{
    hypura_request request = {
        .struct_size = sizeof request, .text = prompt, .text_size = strlen(prompt), .max_tokens = 16};
    hypura_status status = hypura_session_open(&sessions[i], model, error);
    if (!status)
        status = hypura_session_file(sessions[i], &files[i].fd, error);
    files[i].events = POLLIN;
    return status ? status : hypura_start(sessions[i], &request, error);
}

int main(int count, char **arguments)
{
    hypura_model *model = NULL;
    hypura_error error = {.message = "name a model and prompts"};
    hypura_options options = {.struct_size = sizeof options, .context_tokens = 512};
    if (count < 3 || count - 2 > MOST || hypura_open(&model, arguments[1], &options, &error)) {
        fprintf(stderr, "loop: %s\n", error.message);
        return 1;
    }
    size_t all = (size_t)count - 2, running = all;
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; !status && i < all; i++)
        status = start(model, i, arguments[i + 2], &error);
    while (!status && running > 0 && (poll(files, all, -1) >= 0 || errno == EINTR)) {
        for (size_t i = 0; i < all; i++) {
            if (files[i].fd >= 0 && files[i].revents && !take_events(i)) {
                files[i].fd = -1; /* poll ignores it */
                running--;
            }
        }
    }
    if (status)
        fprintf(stderr, "loop: %s\n", error.message);
    for (size_t i = 0; i < all; i++)
        hypura_session_close(sessions[i]);
    hypura_close(model);
    return status ? 1 : 0;
}
