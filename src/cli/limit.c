/* How near decoding came to what the hardware allows. */
#include "cli/cli.h"

double bytes_per_token(const struct model *model)
{
    const struct model_parameters *p = model_parameters(model);
    double bytes = 0;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        if (unit->kind == UNIT_EXPERT)
            bytes += (double)unit->bytes * p->experts_used / p->experts;
        else if (unit->role != ROLE_TOKEN_EMBEDDING || model_tied_output(model))
            bytes += (double)unit->bytes;
    }
    return bytes;
}

double share_of_limit(const struct engine *engine, const struct engine_statistics *s, enum plan_bound *bound)
{
    const struct hardware *hardware = engine_hardware(engine);
    if (!hardware->measured || s->decode_seconds <= 0)
        return -1;
    double disk = (double)s->decode_bytes_read / hardware->storage.bytes_per_second;
    double memory =
        (double)s->generated_tokens * bytes_per_token(engine_model(engine)) / hardware->memory_bytes_per_second;
    *bound = disk > memory ? BOUND_DISK : BOUND_MEMORY;
    return MAX(disk, memory) / s->decode_seconds;
}
