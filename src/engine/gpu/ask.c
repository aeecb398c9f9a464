/* Runs the routers of the next layers on the residual stream as it is at a layer's own router. The host gets their
 * results together with that layer's choice, and has experts read ahead (engine/prefetch.c). Their steps write to
 * separate buffers, since the current layer needs the usual ones. */
#include "engine/gpu/pass.h"

#include <string.h>

static uint32_t written_by(const struct step_router *router)
{
    uint32_t written = 0;
    for (uint32_t i = 0; i < router->count; i++)
        written |= router->steps[i]->writes;
    return written;
}

uint32_t pass_asked_buffers(const struct geometry *geometry)
{
    uint32_t written = 0;
    for (uint32_t i = 0; i < model_parameters(geometry->model)->layers; i++) {
        struct step_router router;
        if (steps_router(geometry->steps, i, &router))
            written |= written_by(&router);
    }
    return written;
}

/* Whether the current device has a layer some of whose experts may be on the drive. */
static bool may_ask(const struct batch *batch, uint32_t layer, struct step_router *router)
{
    const struct gpu_pass *pass = batch->pass;
    if (layer >= pass->plan->layer_count || !pass->plan->layers[layer] ||
        pass->slots[layer].count == model_parameters(batch->open->model)->experts || !prefetch_may_ask(batch, layer))
        return false;
    steps_router(batch->open->steps, layer, router);
    for (uint32_t i = 0; i < router->count; i++)
        if (!pass_records(router->steps[i]->kind))
            return false;
    return true;
}

static hypura_status ask_router(struct batch *batch, const struct step_router *router, uint32_t ahead,
                                hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_route *r = &router->route->route;
    const uint32_t written = written_by(router), experts = r->rule.experts;
    struct gpu_range rows[BUFFER_COUNT];
    memcpy(rows, pass->rows, sizeof rows);
    for (enum step_buffer buffer = 0; buffer < BUFFER_COUNT; buffer++)
        if (written >> buffer & 1)
            pass->rows[buffer] = pass->asked.rows[buffer];
    hypura_status status = HYPURA_OK;
    for (uint32_t i = 0; i < router->count && !status; i++)
        status = pass_record_steps(batch, (struct step_list){router->steps[i], 1}, error);
    pass_settle(pass);
    const struct pass_product product = {.role = ROLE_ROUTER,
                                         .job = {.weights = pass_matrix(batch, r->router),
                                                 .in = pass->rows[r->in],
                                                 .out = pass->asked.logits,
                                                 .bias = pass_vector(batch, r->bias),
                                                 .tokens = (uint32_t)batch->rows,
                                                 .in_stride = model_parameters(batch->open->model)->embedding,
                                                 .out_stride = experts}};
    pass_multiply(batch, router->route->layer, &product, 1);
    pass_settle(pass);
    gpu_copy(pass->gpu, pass->asked.back[ahead].range, pass->asked.logits, batch->rows * experts * sizeof(float));
    pass_settle(pass);
    memcpy(pass->rows, rows, sizeof rows);
    pass->asked.made |= 1u << ahead;
    return status;
}

hypura_status pass_ask_routers(struct batch *batch, uint32_t number, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    uint32_t states[BUFFER_COUNT];
    pass->asked.made = 0;
    if (pass->slots[number].count == model_parameters(batch->open->model)->experts)
        return HYPURA_OK; /* the host does not read the choice */
    for (uint32_t ahead = 0; ahead < PREFETCH_ASKED; ahead++) {
        struct step_router router;
        if (!may_ask(batch, number + 1 + ahead, &router))
            continue;
        pass_record(pass);
        _Static_assert(sizeof states == sizeof pass->state, "a state for each buffer");
        memcpy(states, pass->state, sizeof states);
        TRY(ask_router(batch, &router, ahead, error));
        memcpy(pass->state, states, sizeof states);
    }
    return HYPURA_OK;
}
