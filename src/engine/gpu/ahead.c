/* Commands recorded while a device computes a run of layers. With one run per device, they are that device's for the
 * next token: recording may take as long as the run. With several, they are those of the next run, on another device.
 * So a run starts as soon as its rows arrive, or as soon as the token is chosen, and need not wait for the CPU between
 * layers. The commands read rows, the token, and what depends only on positions, from mapped memory, which is filled in
 * once they are known. */
#include "engine/gpu/pass.h"

/* A token that takes longer is sent in parts, so that a slow device can be told from one that hangs. */
#define MOST_SECONDS 2.0

/* Whether devices compute all of a token, except perhaps the embedding. */
bool pass_devices_do_all(const struct batch *batch)
{
    const struct plan_gpu *plan = batch->open->plan->gpu;
    const struct model_parameters *p = model_parameters(batch->open->model);
    for (uint32_t i = 0; i < plan->layer_count; i++)
        if (!plan->layers[i] ||
            (steps_find(steps_of_layer(batch->open->steps, i), STEP_EXPERTS) && plan->slots[i] < p->experts))
            return false;
    return plan->parts[plan->devices[plan->layer_count - 1]].output;
}

/* Whether a batch takes each run of layers with a single batch of commands, and does not change in between. */
static bool is_short(const struct batch *batch)
{
    return batch->rows <= GPU_VECTOR_TOKENS && batch->wanted > 0 &&
           batch->wanted <= batch->open->geometry.logits_rows && batch->narrowing.layer == NO_LAYER && !batch->trace;
}

/* Whether a batch has one token of each of a few sequences, and all logits are wanted. */
static bool is_step(const struct batch *batch)
{
    return is_short(batch) && batch->span_count == batch->rows && batch->wanted == batch->rows;
}

void pass_expect(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    const struct scratch *s = &batch->scratch;
    struct ahead *ahead = &pass->ahead;
    bool step = is_step(batch);
    ahead->expected = step && ahead->rows == batch->rows;
    for (uint32_t r = 0; ahead->expected && r < ahead->rows; r++)
        ahead->expected = s->spans[r].sequence == ahead->sequences[r] && s->positions[r] == ahead->positions[r];
    ahead->used = ahead->ready && ahead->expected;
    if (!ahead->used)
        pass_drop_ahead(pass);
    ahead->ready = false;
    ahead->rows = step ? (uint32_t)batch->rows : 0;
    for (uint32_t r = 0; r < ahead->rows; r++) {
        ahead->sequences[r] = s->spans[r].sequence;
        ahead->positions[r] = s->positions[r] + 1;
    }
}

/* Records a run of the current device's layers. */
static hypura_status record(struct batch *batch, uint32_t first)
{
    const struct plan_gpu *plan = batch->open->plan->gpu;
    const uint32_t end = plan_gpu_run_end(plan, first);
    bool done;
    if (first == 0)
        TRY(gpu_pass_embed(batch, NULL, &done, NULL)); /* if not done, the CPU embeds */
    for (uint32_t i = first; i < end; i++)
        TRY(pass_run_layer(batch, i, NULL));
    if (end == plan->layer_count)
        return pass_divides_output(batch) ? pass_record_normed(batch, batch->pass->divided.rows.range, NULL)
                                          : pass_record_output(batch, 0, batch->wanted, NULL);
    pass_record_leaving(batch);
    return HYPURA_OK;
}

/* An expected batch is likely to be followed by another. */
static bool is_worthwhile(const struct batch *batch, bool next)
{
    const struct ahead *ahead = &batch->pass->ahead;
    if (!ahead->possible || ahead->seconds > MOST_SECONDS || !(next ? ahead->expected : is_short(batch)))
        return false;
    for (uint32_t r = 0; next && r < ahead->rows; r++)
        if (ahead->positions[r] >= batch->open->plan->positions)
            return false;
    return true;
}

void pass_record_ahead(struct batch *batch, uint32_t layer)
{
    struct gpu_pass *const current = batch->pass;
    const struct plan_gpu *plan = batch->open->plan->gpu;
    const bool next = layer == 0 || !plan_gpu_comes_back(plan);
    if (!is_worthwhile(batch, next))
        return;
    if (!plan_gpu_comes_back(plan))
        for (layer = 0; plan->devices[layer] != current->number;)
            layer++;
    pass_choose(batch, layer);
    struct gpu_pass *pass = batch->pass;
    pass->ahead.value = layer > 0 && gpu_get_info(pass->gpu)->events ? ++pass->signals : 0;
    const struct gpu_pass before = *pass;
    pass->ahead.recording = true;
    pass->ahead.next = next;
    pass->on_device = false;
    pass->inputs_sent = pass->inputs_sent && !next;
    for (uint32_t r = 0; next && r < batch->rows; r++)
        batch->scratch.positions[r]++;
    if (pass->ahead.value) {
        pass_record(pass);
        gpu_await_host(pass->gpu, pass->ahead.value);
    }
    hypura_status status = record(batch, layer);
    for (uint32_t r = 0; next && r < batch->rows; r++)
        batch->scratch.positions[r]--;
    *pass = before;
    pass->ahead.ready = status == HYPURA_OK && gpu_recorded(pass->gpu) == HYPURA_OK;
    if (!pass->ahead.ready)
        gpu_drop(pass->gpu);
    batch->pass = current;
}

hypura_status pass_send_early(struct batch *batch, uint32_t layer, hypura_error *error)
{
    struct gpu_pass *const current = batch->pass;
    pass_choose(batch, layer);
    struct gpu_pass *pass = batch->pass;
    struct ahead *ahead = &pass->ahead;
    const bool ready = plan_gpu_comes_back(batch->open->plan->gpu) ? ahead->ready : ahead->used;
    hypura_status status = HYPURA_OK;
    if (pass != current && ready && ahead->value) {
        ahead->used = true;
        ahead->ready = false;
        pass->open = true;
        status = pass_fill_table(batch, layer, plan_gpu_run_end(batch->open->plan->gpu, layer), error);
        pass_send_inputs(batch);
        if (!status)
            status = pass_send(pass, error);
        ahead->sent = !status;
    }
    batch->pass = current;
    return status;
}
