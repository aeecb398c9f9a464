/* Messages about errors and wrong usage, and the exit status that follows. */
#include "cli/engine_cli.h"

#include <stdarg.h>
#include <stdatomic.h>

bool first_to_say_lost(void)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    return !atomic_flag_test_and_set(&said);
}

int report_error(const hypura_error *error)
{
    if (error->status == HYPURA_ERROR_CANCELLED && interrupted())
        return EXIT_INTERRUPTED;
    if (error->status == HYPURA_ERROR_HOST && !first_to_say_lost())
        return EXIT_FAILED;
    /* A part that was lost for lack of memory can make the rest look wrong. */
    if (error->status == HYPURA_ERROR_ARGUMENT && memory_failures()) {
        fprintf(stderr, "hypura: out of memory; the incomplete input then failed: %s\n", error->message);
        return EXIT_FAILED;
    }
    fprintf(stderr, "hypura: %s\n", error->message);
    return error->status == HYPURA_ERROR_ARGUMENT ? EXIT_USAGE : EXIT_FAILED;
}

int report_usage(const struct command *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "hypura %s: ", command->name);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\nUsage: hypura %s [OPTION]...%s%s\n\"hypura %s --help\" explains it.\n", command->name,
            *command->arguments ? " " : "", command->arguments, command->name);
    va_end(arguments);
    return EXIT_USAGE;
}
