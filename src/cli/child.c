#include "cli/child.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_OUTPUT (4 << 20)

extern char **environ;

hypura_status arguments_add(struct arguments *arguments, const char *text, hypura_error *error)
{
    hypura_status status = resize_array((void **)&arguments->items, arguments->count ? arguments->count + 1 : 0,
                                        arguments->count + 2, sizeof *arguments->items, "arguments", error);
    if (status)
        return status;
    arguments->items[arguments->count] = arguments->items[arguments->count + 1] = NULL;
    char *copy = NULL;
    status = NEW_ARRAY(&copy, strlen(text) + 1, "argument", error);
    if (!status) {
        strcpy(copy, text);
        arguments->items[arguments->count++] = copy;
    }
    return status;
}

void arguments_free(struct arguments *arguments)
{
    for (size_t i = 0; i < arguments->count; i++)
        free_memory(arguments->items[i]);
    free_memory(arguments->items);
    *arguments = (struct arguments){0};
}

static hypura_status add_option(struct arguments *arguments, const char *name, const char *value, hypura_error *error)
{
    char option[64];
    snprintf(option, sizeof option, "--%s", name);
    hypura_status status = arguments_add(arguments, option, error);
    return status || !value ? status : arguments_add(arguments, value, error);
}

hypura_status arguments_add_options(struct arguments *arguments, const struct option_row *rows,
                                    const char *const *without, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (const struct option_row *row = rows; !status && row->name; row++) {
        bool left_out = false;
        for (size_t i = 0; without[i]; i++)
            left_out = left_out || strcmp(without[i], row->name) == 0;
        if (left_out)
            continue;
        char number[40];
        switch (row->kind) {
        case OPTION_FLAG:
            if (*(const bool *)row->target)
                status = add_option(arguments, row->name, NULL, error);
            break;
        case OPTION_TEXT:
            if (*(const char **)row->target)
                status = add_option(arguments, row->name, *(const char **)row->target, error);
            break;
        case OPTION_TEXTS: {
            const struct texts *texts = row->target;
            for (size_t i = 0; !status && i < texts->count; i++)
                status = add_option(arguments, row->name, texts->items[i], error);
            break;
        }
        case OPTION_SIZES: {
            const struct sizes *sizes = row->target;
            char list[MOST_SIZES * 21 + 1] = "";
            for (size_t i = 0, used = 0; i < sizes->count; i++)
                used += (size_t)snprintf(list + used, sizeof list - used, "%s%llu", i ? "," : "",
                                         (unsigned long long)sizes->bytes[i]);
            if (sizes->count)
                status = add_option(arguments, row->name, list, error);
            break;
        }
        case OPTION_BYTES:
        case OPTION_SEED:
            snprintf(number, sizeof number, "%llu", *(const unsigned long long *)row->target);
            if (*(const uint64_t *)row->target)
                status = add_option(arguments, row->name, number, error);
            break;
        case OPTION_COUNT:
        case OPTION_LIMIT:
            snprintf(number, sizeof number, "%u", *(const uint32_t *)row->target);
            if (*(const uint32_t *)row->target)
                status = add_option(arguments, row->name, number, error);
            break;
        case OPTION_NUMBER:
            snprintf(number, sizeof number, "%.9g", (double)*(const float *)row->target);
            status = add_option(arguments, row->name, number, error);
            break;
        case OPTION_WHICH: {
            const struct which *which = row->target;
            snprintf(number, sizeof number, "%u", which->number);
            if (which->given)
                status = add_option(arguments, row->name, which->one ? number : NULL, error);
            break;
        }
        }
    }
    return status;
}

bool child_exists(const char *name)
{
    if (strchr(name, '/'))
        return access(name, X_OK) == 0;
    char path[4096];
    const char *folders = getenv("PATH");
    while (folders && *folders) {
        size_t length = strcspn(folders, ":");
        int written = snprintf(path, sizeof path, "%.*s/%s", (int)length, folders, name);
        if (length > 0 && written < (int)sizeof path && access(path, X_OK) == 0)
            return true;
        folders += length + (folders[length] == ':');
    }
    return false;
}

/* The last line of a file that is not blank. */
static void last_line(FILE *file, char *out, size_t room)
{
    char line[512];
    *out = 0;
    rewind(file);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (line[strspn(line, " \t")])
            snprintf(out, room, "%.400s", line);
    }
}

static hypura_status start(pid_t *child, const struct arguments *arguments, int output, int errors, hypura_error *error)
{
    posix_spawn_file_actions_t actions;
    int number = posix_spawn_file_actions_init(&actions);
    if (number)
        return set_error_errno(error, number, "cannot start %s", arguments->items[0]);
    number = posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    if (!number && errors >= 0)
        number = posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
    if (!number)
        number = posix_spawnp(child, arguments->items[0], &actions, NULL, arguments->items, environ);
    posix_spawn_file_actions_destroy(&actions);
    return number ? set_error_errno(error, number, "cannot start %s", arguments->items[0]) : HYPURA_OK;
}

/* Reads the whole output of the child, and its exit status. */
static hypura_status collect(struct text_buffer *buffer, pid_t child, int from, int *result, hypura_error *error)
{
    uint64_t failures = lost_memory();
    char piece[16384];
    ssize_t got;
    while ((got = read(from, piece, sizeof piece)) > 0 || (got < 0 && errno == EINTR))
        if (got > 0)
            text_add(buffer, piece, (size_t)got);
    while (waitpid(child, result, 0) < 0)
        if (errno != EINTR)
            return set_error_errno(error, errno, "cannot wait for a program");
    if (check_memory(failures, "output of a program", error))
        return error->status;
    return buffer->failed ? set_error(error, HYPURA_ERROR_FORMAT, "a program printed more than %d bytes", MOST_OUTPUT)
                          : HYPURA_OK;
}

static hypura_status run(struct text_buffer *buffer, const struct arguments *arguments, FILE *errors,
                         hypura_error *error)
{
    int ends[2], result = 0;
    pid_t child = -1;
    if (pipe(ends))
        return set_error_errno(error, errno, "cannot start %s", arguments->items[0]);
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    hypura_status status = start(&child, arguments, ends[1], errors ? fileno(errors) : -1, error);
    close(ends[1]);
    if (!status)
        status = collect(buffer, child, ends[0], &result, error);
    close(ends[0]);
    if (status || (WIFEXITED(result) && WEXITSTATUS(result) == 0))
        return status;
    char said[512] = "";
    if (errors)
        last_line(errors, said, sizeof said);
    if (WIFSIGNALED(result))
        return set_error(error, HYPURA_ERROR_IO, "%s was ended by signal %d%s%s", arguments->items[0], WTERMSIG(result),
                         *said ? ": " : "", said);
    return set_error(error, HYPURA_ERROR_IO, "%s failed with exit status %d%s%s", arguments->items[0],
                     WEXITSTATUS(result), *said ? ": " : "", said);
}

hypura_status child_json(json_t **out, const struct arguments *arguments, bool quiet, hypura_error *error)
{
    FILE *errors = quiet ? tmpfile() : NULL;
    if (quiet && !errors)
        return set_error_errno(error, errno, "cannot open a temporary file");
    struct text_buffer buffer = {.limit = MOST_OUTPUT};
    hypura_status status = run(&buffer, arguments, errors, error);
    if (errors)
        fclose(errors);
    if (!status) {
        json_error_t where;
        *out = read_json(buffer.data ? buffer.data : "", buffer.size, 0, &where);
        if (!*out)
            status =
                set_error(error, HYPURA_ERROR_FORMAT, "%s printed no JSON: %.100s", arguments->items[0], where.text);
    }
    text_free(&buffer);
    return status;
}
