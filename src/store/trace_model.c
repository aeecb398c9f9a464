#include "store/trace.h"

#include "plan/plan.h"

hypura_status trace_shape_of_model(struct trace_shape *out, const struct model *model, hypura_error *error)
{
    const struct model_parameters *parameters = model_parameters(model);
    uint32_t count = 0;
    for (uint32_t i = 0; i < parameters->layers; i++)
        count += model_layer(model, i)->first_expert != NO_UNIT;
    if (count == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%s has no experts: there is no routing to record",
                         model_name(model));
    struct trace_shape shape = {.name = model_name(model),
                                .layer_count = count,
                                .experts = parameters->experts,
                                .used = parameters->experts_used};
    hypura_status status = ALLOCATE(&shape.layers, count, "layers of the trace", error);
    if (status)
        return status;
    count = 0;
    for (uint32_t i = 0; i < parameters->layers; i++) {
        unit_number first = model_layer(model, i)->first_expert;
        if (first != NO_UNIT)
            shape.layers[count++] = (struct trace_layer){i, plan_unit_footprint(model_unit(model, first))};
    }
    *out = shape;
    return HYPURA_OK;
}
