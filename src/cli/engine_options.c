/* Converts the options of the command line for commands that use an engine directly. */
#include "api/opening.h"
#include "cli/engine_cli.h"

hypura_status engine_options_of(struct engine_options *out, hypura_error *error)
{
    hypura_options given;
    hypura_adapter *adapters;
    struct opening opening; /* never closed: the options point into it */
    hypura_status status = given_options(&given, &adapters, error);
    if (!status)
        status = read_options(&opening, &given, error);
    if (status)
        return status;
    memory_free(adapters);
    *out = opening.engine;
    out->sequences = compute_options.sequences;
    out->shared_context = false;
    out->begin_early = false;
    return HYPURA_OK;
}
