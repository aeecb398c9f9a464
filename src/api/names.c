/* Versions, names, the log, and hypura_free. */
#include "api/api_private.h"

#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

static hypura_log_sink log_to;
static hypura_log_level log_least;

_Static_assert((int)HYPURA_LOG_DEBUG == LOG_DEBUG && (int)HYPURA_LOG_INFO == LOG_INFO &&
                   (int)HYPURA_LOG_WARNING == LOG_WARNING && (int)HYPURA_LOG_ERROR == LOG_ERROR,
               "log levels of the API and of core are equal");

const char *hypura_version(void)
{
    return TEXT(HYPURA_VERSION_MAJOR) "." TEXT(HYPURA_VERSION_MINOR) "." TEXT(HYPURA_VERSION_PATCH);
}

unsigned hypura_version_number(void)
{
    return HYPURA_VERSION_NUMBER;
}

const char *hypura_status_name(hypura_status status)
{
    static const char *const names[] = {"ok",     "argument",  "io",     "format", "unsupported",
                                        "memory", "cancelled", "device", "host"};
    return (size_t)status < COUNT_OF(names) ? names[status] : "unknown";
}

const char *hypura_finish_name(hypura_finish finish)
{
    static const char *const names[] = {"end", "stop", "tool_calls", "max_tokens", "context", "cancelled"};
    return (size_t)finish < COUNT_OF(names) ? names[finish] : "unknown";
}

static void pass_on(void *context, enum log_level level, const char *message)
{
    if ((int)level >= (int)log_least)
        log_to(context, (hypura_log_level)level, message);
}

void hypura_set_log(hypura_log_sink sink, void *context, hypura_log_level least)
{
    log_to = sink;
    log_least = least;
    log_set_sink(sink ? pass_on : NULL, context);
}

void hypura_free(void *memory)
{
    memory_free(memory);
}
