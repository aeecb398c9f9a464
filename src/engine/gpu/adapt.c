/* What LoRA adapters add to products, as commands (adapter.c explains them). They can add to experts on the CPU only,
 * so ability.c leaves adapted experts there. */
#include "engine/gpu/pass.h"

/* Bytes of both thin matrices. */
static uint64_t pair_bytes(const struct thin_pair *pair)
{
    return align_up(pair->a->bytes, GPU_ALIGNMENT) + align_up(pair->b->bytes, GPU_ALIGNMENT);
}

/* The CPU has the adapters of experts. */
static bool is_expert(enum tensor_role role)
{
    return role >= ROLE_EXPERT_GATE_UP && role <= ROLE_EXPERT_DOWN;
}

uint64_t pass_adapter_bytes(const struct adapters *adapters, int32_t layer)
{
    uint64_t bytes = 0;
    for (enum tensor_role role = 0; adapters && role < ROLE_COUNT; role++)
        for (const struct thin_pair *pair = adapters_find(adapters, layer, role); pair && !is_expert(role);
             pair = pair->next)
            bytes += pair_bytes(pair);
    return bytes;
}

/* ---- opening ------------------------------------------------------------------------------------------------------
 */

static hypura_status upload(struct gpu *gpu, struct gpu_buffer *buffer, uint64_t *used,
                            const struct gguf_tensor *tensor, const uint8_t *data, struct gpu_range *out,
                            gpu_ticket *arrived, hypura_error *error)
{
    *out = (struct gpu_range){buffer, *used};
    *used += align_up(tensor->bytes, GPU_ALIGNMENT);
    return gpu_upload(gpu, *out, data, tensor->bytes, arrived, error);
}

/* The adapters of a layer, or of the whole model (-1), have their own buffer. */
static hypura_status bring(struct batch *batch, int32_t layer, gpu_ticket *arrived, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    struct gpu_buffer **buffer = &pass->thin_buffers[layer + 1];
    uint64_t bytes = pass_adapter_bytes(batch->open->adapters, layer), used = 0;
    if (bytes == 0)
        return HYPURA_OK;
    TRY(gpu_buffer_create(pass->gpu, buffer, bytes, GPU_DEVICE, error));
    for (enum tensor_role role = 0; role < ROLE_COUNT; role++)
        for (const struct thin_pair *pair = adapters_find(batch->open->adapters, layer, role); pair && !is_expert(role);
             pair = pair->next) {
            struct thin_ranges *to = &pass->thin[pair->number];
            TRY(upload(pass->gpu, *buffer, &used, pair->a, pair->data_a, &to->a, arrived, error));
            TRY(upload(pass->gpu, *buffer, &used, pair->b, pair->data_b, &to->b, arrived, error));
        }
    return HYPURA_OK;
}

static hypura_status bring_all(struct batch *batch, gpu_ticket *arrived, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    if (pass->plan->output)
        TRY(bring(batch, -1, arrived, error));
    for (uint32_t i = 0; i < pass->plan->layer_count; i++)
        if (pass->plan->layers[i])
            TRY(bring(batch, (int32_t)i, arrived, error));
    return HYPURA_OK;
}

hypura_status pass_open_adapters(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    gpu_ticket arrived = 0;
    if (!batch->open->adapters)
        return HYPURA_OK;
    TRY(ALLOCATE(&pass->thin, adapters_pairs(batch->open->adapters), "table of adapters", error));
    TRY(ALLOCATE(&pass->thin_buffers, (size_t)pass->plan->layer_count + 1, "table of adapters", error));
    hypura_status status = bring_all(batch, &arrived, error);
    /* Wait after an error, too: no upload to a buffer may be under way when it is freed. */
    hypura_status waited = gpu_upload_wait(pass->gpu, arrived, status ? NULL : error);
    return status ? status : waited;
}

void pass_close_adapters(struct gpu_pass *pass)
{
    for (uint32_t i = 0; pass->thin_buffers && i <= pass->plan->layer_count; i++)
        gpu_buffer_destroy(pass->gpu, pass->thin_buffers[i]);
    memory_free(pass->thin_buffers);
    memory_free(pass->thin);
}

/* ---- adding --------------------------------------------------------------------------------------------------------
 */

static const struct thin_pair *find(const struct batch *batch, int32_t layer, enum tensor_role role)
{
    return batch->open->adapters ? adapters_find(batch->open->adapters, layer, role) : NULL;
}

bool pass_is_adapted(const struct batch *batch, int32_t layer, enum tensor_role role)
{
    return find(batch, layer, role) != NULL;
}

static struct gpu_matrix thin_matrix(const struct gguf_tensor *tensor, struct gpu_range data)
{
    struct matrix matrix = matrix_at(NULL, tensor->type, tensor->dimensions[0], tensor->dimensions[1]);
    return (struct gpu_matrix){.data = data,
                               .type = matrix.type,
                               .rows = (uint32_t)matrix.rows,
                               .columns = (uint32_t)matrix.columns,
                               .row_bytes = matrix.row_bytes};
}

/* Adds one adapter of each product: first multiplies all by A, then by B. */
static void add_pairs(struct batch *batch, const struct pass_product *products, const struct thin_pair *const *pairs,
                      size_t count)
{
    struct gpu_pass *pass = batch->pass;
    struct gpu_matmul down[PASS_PRODUCTS] = {0}, up[PASS_PRODUCTS] = {0};
    float scales[PASS_PRODUCTS] = {0};
    size_t jobs = 0;
    bool scaled = false;
    for (size_t i = 0; i < count; i++) {
        const struct thin_pair *pair = pairs[i];
        const struct gpu_matmul *job = &products[i].job;
        if (!pair)
            continue;
        struct gpu_matrix a = thin_matrix(pair->a, pass->thin[pair->number].a);
        struct gpu_matrix b = thin_matrix(pair->b, pass->thin[pair->number].b);
        struct gpu_range low = range_at(pass->low, jobs * pass->low_floats);
        b.data.offset += products[i].first * b.row_bytes;
        b.rows = job->weights.rows;
        down[jobs] = *job;
        down[jobs].weights = a;
        down[jobs].out = low;
        down[jobs].out_stride = a.rows;
        down[jobs].bias = down[jobs].unpacked = (struct gpu_range){0};
        down[jobs].kept = NULL;
        down[jobs].accumulate = false;
        up[jobs] = (struct gpu_matmul){.weights = b,
                                       .in = low,
                                       .out = job->out,
                                       .tokens = job->tokens,
                                       .in_stride = a.rows,
                                       .out_stride = job->out_stride,
                                       .accumulate = true};
        scales[jobs++] = pair->scale;
        scaled |= pair->scale != 1.0f;
    }
    gpu_matmul(pass->gpu, down, jobs);
    gpu_barrier(pass->gpu);
    for (size_t i = 0; i < jobs; i++)
        if (scales[i] != 1.0f)
            gpu_scale(pass->gpu, up[i].in, up[i].in, scales[i], (uint64_t)up[i].tokens * up[i].in_stride);
    if (scaled)
        gpu_barrier(pass->gpu);
    gpu_matmul(pass->gpu, up, jobs);
}

/* Adds the adapters to recorded products. */
static void add_adapters(struct batch *batch, int32_t layer, const struct pass_product *products, size_t count)
{
    const struct thin_pair *pairs[PASS_PRODUCTS] = {0};
    bool any = false;
    for (size_t i = 0; i < count && batch->open->adapters; i++)
        any |= (pairs[i] = find(batch, layer, products[i].role)) != NULL;
    while (any) {
        /* They add to what the products write. */
        gpu_barrier(batch->pass->gpu);
        add_pairs(batch, products, pairs, count);
        any = false;
        for (size_t i = 0; i < count; i++)
            any |= pairs[i] && (pairs[i] = pairs[i]->next);
    }
}

/* Works in place; the caller records the barrier after it. */
void pass_scale(struct batch *batch, const struct pass_product *products, size_t count)
{
    struct gpu *gpu = batch->pass->gpu;
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        const struct gpu_matmul *job = &products[i].job;
        if (!products[i].scale.buffer)
            continue;
        if (!any)
            gpu_barrier(gpu);
        any = true;
        gpu_rescale(gpu, &(struct gpu_rescale){.rows = job->out,
                                               .scales = products[i].scale,
                                               .bias = products[i].scaled_bias,
                                               .count = job->tokens,
                                               .columns = job->weights.rows,
                                               .stride = job->out_stride});
    }
}

void pass_multiply(struct batch *batch, int32_t layer, const struct pass_product *products, size_t count)
{
    struct gpu_matmul jobs[PASS_PRODUCTS] = {0};
    for (size_t i = 0; i < count; i++)
        jobs[i] = products[i].job;
    gpu_matmul(batch->pass->gpu, jobs, count);
    pass_scale(batch, products, count);
    add_adapters(batch, layer, products, count);
}
