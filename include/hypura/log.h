/* What the library reports in addition to answers and errors. It is silent unless a program asks. */
#ifndef HYPURA_API_LOG_H
#define HYPURA_API_LOG_H

#include <hypura/export.h>

HYPURA_BEGIN

typedef enum hypura_log_level {
    HYPURA_LOG_DEBUG,
    HYPURA_LOG_INFO,
    HYPURA_LOG_WARNING,
    HYPURA_LOG_ERROR
} hypura_log_level;

/* message: one line of UTF-8 without a line feed, valid during the call. Called from any thread, from several at once;
 * it must not call the library. */
typedef void (*hypura_log_sink)(void *context, hypura_log_level level, const char *message);

/* Sends messages of this level and above to the sink; NULL: nowhere. It applies to the whole process: call it before
 * the first model is opened, and not while one is open. */
HYPURA_API void hypura_set_log(hypura_log_sink sink, void *context, hypura_log_level least);

HYPURA_END
#endif
