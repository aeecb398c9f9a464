#include "core/core.h"

#include <stdarg.h>
#include <stdio.h>

static log_sink current_sink;
static void *current_context;

void log_set_sink(log_sink sink, void *context)
{
    current_sink = sink;
    current_context = context;
}

void log_write(enum log_level level, const char *format, ...)
{
    if (!current_sink)
        return;
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    current_sink(current_context, level, message);
}
