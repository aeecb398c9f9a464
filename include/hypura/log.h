/* Messages besides errors, such as warnings. The library reports none until hypura_set_log is called. */
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

/* Receives one message: a line of UTF-8 without a line feed, valid during the call. Any thread may call it, several at
 * the same time. It must not call the library. */
typedef void (*hypura_log_sink)(void *context, hypura_log_level level, const char *message);

/* Sends messages of level least and above to the sink; a NULL sink turns them off. The setting applies to the whole
 * process and keeps sink and context. Do not call it while a model is open. */
HYPURA_API void hypura_set_log(hypura_log_sink sink, void *context, hypura_log_level least);

HYPURA_END
#endif
