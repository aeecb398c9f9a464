/* A layer of a common shape, for one token, recorded as the engine records it. It is so small that launches take a
 * large part of its time, and it attends to few positions. */
#include "hw/gpu_layer.h"

#include "format/format.h"

#define WIDTH 4096u
#define KEYS 1024u
#define HEAD 128u
#define POSITIONS 128u
/* A mixture has many small experts. */
#define EXPERTS 128u
#define USED 8u
#define INNER (WIDTH / 4)

static struct gpu_range cut(struct gpu_buffer *buffer, uint64_t *used, uint64_t bytes)
{
    struct gpu_range range = {buffer, *used};
    *used += align_up(bytes, GPU_ALIGNMENT);
    return range;
}

static uint64_t cut_all(struct gpu_layer *b)
{
    const uint64_t row = WIDTH * sizeof(float);
    uint64_t used = 0;
    struct gpu_range *rows[] = {&b->hidden, &b->normed, &b->query, &b->key, &b->value, &b->attended};
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        *rows[i] = cut(b->all, &used, row);
    b->inner = cut(b->all, &used, 2 * row); /* gate and up, or USED * INNER */
    b->out = cut(b->all, &used, USED * row);
    b->vector = cut(b->all, &used, row);
    b->router = cut(b->all, &used, EXPERTS * row);
    b->logits = cut(b->all, &used, EXPERTS * sizeof(float));
    b->ids = cut(b->all, &used, USED * sizeof(uint32_t));
    b->weights = cut(b->all, &used, USED * sizeof(float));
    b->slots = cut(b->all, &used, EXPERTS * sizeof(uint32_t));
    b->cache = cut(b->all, &used, (uint64_t)2 * POSITIONS * KEYS * sizeof(uint16_t));
    b->scratch = cut(b->all, &used, gpu_attention_scratch_bytes(GPU_VECTOR_TOKENS, WIDTH / HEAD, HEAD, POSITIONS));
    return used;
}

/* The buffers hold zeros, so the router chooses the first experts. Each of these has its own slot. */
hypura_status gpu_layer_make(struct gpu_layer *layer, struct gpu *gpu, hypura_error *error)
{
    *layer = (struct gpu_layer){0};
    uint64_t bytes = cut_all(layer);
    uint8_t *zeros;
    gpu_ticket ticket = 0;
    hypura_status status = ALLOCATE(&zeros, bytes, "GPU test", error);
    if (status)
        return status;
    status = gpu_buffer_create(gpu, &layer->all, bytes, GPU_DEVICE, error);
    if (!status) {
        cut_all(layer);
        for (uint32_t e = 0; e < EXPERTS; e++)
            zeros[layer->slots.offset + e * sizeof(uint32_t)] = (uint8_t)(e % USED);
        status = gpu_upload(gpu, (struct gpu_range){layer->all, 0}, zeros, bytes, &ticket, error);
    }
    if (!status)
        status = gpu_upload_wait(gpu, ticket, error);
    memory_free(zeros);
    return status;
}

void gpu_layer_free(struct gpu_layer *layer, struct gpu *gpu)
{
    gpu_buffer_destroy(gpu, layer->all);
}

static uint64_t row_bytes(enum tensor_type type, uint32_t columns)
{
    uint64_t bytes = 0;
    tensor_row_bytes(type, columns, &bytes);
    return bytes;
}

uint64_t gpu_layer_bytes(enum tensor_type type, bool mixture)
{
    return row_bytes(type, WIDTH) * (2 * WIDTH + 2 * KEYS + 3 * (mixture ? USED * INNER : WIDTH));
}

uint64_t gpu_layer_router_bytes(void)
{
    return EXPERTS * row_bytes(TENSOR_F32, WIDTH);
}

/* Hands out consecutive parts of a buffer as weights, and starts again at its beginning when it is used up. */
struct taking {
    struct gpu_buffer *weights;
    uint64_t bytes, used;
    enum tensor_type type;
};

static struct gpu_matrix take(struct taking *t, uint32_t rows, uint32_t columns)
{
    struct gpu_matrix matrix = {
        .type = t->type, .rows = rows, .columns = columns, .row_bytes = row_bytes(t->type, columns)};
    if (t->used + rows * matrix.row_bytes > t->bytes)
        t->used = 0;
    matrix.data = (struct gpu_range){t->weights, t->used};
    t->used = align_up(t->used + rows * matrix.row_bytes, GPU_ALIGNMENT);
    return matrix;
}

static struct gpu_matmul job(struct gpu_matrix weights, struct gpu_range in, struct gpu_range norm,
                             struct gpu_range out)
{
    return (struct gpu_matmul){.weights = weights,
                               .in = in,
                               .out = out,
                               .norm = norm,
                               .tokens = 1,
                               .in_stride = WIDTH,
                               .out_stride = weights.rows,
                               .epsilon = 1e-5f};
}

static void attend(const struct gpu_layer *b, struct gpu *gpu)
{
    const struct gpu_sequence sequence = {.rows = 1,
                                          .first_position = POSITIONS / 2,
                                          .capacity = POSITIONS,
                                          .values = (uint64_t)POSITIONS * KEYS * sizeof(uint16_t)};
    const uint32_t position = HEAD * sizeof(uint16_t);
    const struct gpu_heads heads = {.query = b->query,
                                    .key = b->key,
                                    .value = b->value,
                                    .table = b->vector,
                                    .out = b->query,
                                    .cache = b->cache,
                                    .query_stride = WIDTH,
                                    .query_head_stride = HEAD,
                                    .key_stride = KEYS,
                                    .value_stride = KEYS,
                                    .rotary = HEAD,
                                    .rows = 1,
                                    .heads = WIDTH / HEAD,
                                    .kv_heads = KEYS / HEAD,
                                    .key_size = HEAD,
                                    .value_size = HEAD,
                                    .type = TENSOR_F16,
                                    .key_position_bytes = position,
                                    .value_position_bytes = position,
                                    .sequences = &sequence,
                                    .sequence_count = 1};
    struct gpu_attention attention = {.query = b->query,
                                      .out = b->attended,
                                      .cache = b->cache,
                                      .scratch = b->scratch,
                                      .rows = 1,
                                      .heads = WIDTH / HEAD,
                                      .kv_heads = KEYS / HEAD,
                                      .key_size = HEAD,
                                      .value_size = HEAD,
                                      .type = TENSOR_F16,
                                      .key_position_bytes = position,
                                      .value_position_bytes = position,
                                      .scale = 1,
                                      .sequences = &sequence,
                                      .sequence_count = 1};
    if (gpu_attention_makes_heads(gpu, &heads, &attention)) {
        attention.makes = &heads;
    } else {
        gpu_heads(gpu, &heads);
        gpu_barrier(gpu);
    }
    gpu_attention(gpu, &attention);
    gpu_barrier(gpu);
}

static const struct gpu_glu_kind silu = {.kind = GLU_SILU};

static void feed_forward(const struct gpu_layer *b, struct gpu *gpu, struct taking *t)
{
    const struct gpu_range up = {b->inner.buffer, b->inner.offset + WIDTH * sizeof(float)};
    struct gpu_matmul jobs[2], down;
    for (int i = 0; i < 2; i++)
        jobs[i] = job(take(t, WIDTH, WIDTH), b->hidden, b->vector, i ? up : b->inner);
    gpu_matmul_glu(gpu, jobs, &silu);
    gpu_barrier(gpu);
    down = job(take(t, WIDTH, WIDTH), b->inner, (struct gpu_range){0}, b->hidden);
    down.accumulate = true;
    gpu_matmul(gpu, &down, 1);
    gpu_barrier(gpu);
}

static struct gpu_expert_matmul expert_job(const struct gpu_layer *b, struct taking *t, uint32_t rows, uint32_t columns,
                                           struct gpu_range in, struct gpu_range norm, struct gpu_range out)
{
    /* The weights of the experts that a token uses. */
    struct gpu_matrix weights = take(t, USED * rows, columns);
    weights.rows = rows;
    return (struct gpu_expert_matmul){.weights = weights,
                                      .slot_stride = rows * weights.row_bytes,
                                      .slots = b->slots,
                                      .ids = b->ids,
                                      .in = in,
                                      .norm = norm,
                                      .out = out,
                                      .experts = EXPERTS,
                                      .used = USED,
                                      .tokens = 1,
                                      .epsilon = 1e-5f,
                                      .per_choice = !norm.buffer,
                                      .routed = true};
}

static void mixture_of_experts(const struct gpu_layer *b, struct gpu *gpu, struct taking *t)
{
    struct taking router_weights = {b->router.buffer, b->router.offset + EXPERTS * WIDTH * sizeof(float),
                                    b->router.offset, TENSOR_F32};
    const struct gpu_matmul router_job = job(take(&router_weights, EXPERTS, WIDTH), b->hidden, b->vector, b->logits);
    const struct gpu_router router = {.logits = b->logits,
                                      .ids = b->ids,
                                      .weights = b->weights,
                                      .rows = 1,
                                      .experts = EXPERTS,
                                      .used = USED,
                                      .normalise = true,
                                      .scale = 1};
    gpu_route(gpu, &router_job, &router);
    gpu_barrier(gpu);
    const struct gpu_expert_matmul jobs[2] = {expert_job(b, t, INNER, WIDTH, b->hidden, b->vector, b->inner),
                                              expert_job(b, t, INNER, WIDTH, b->hidden, b->vector, b->inner)};
    gpu_expert_matmul_glu(gpu, jobs, &silu);
    gpu_barrier(gpu);
    const struct gpu_expert_matmul down = expert_job(b, t, WIDTH, INNER, b->inner, (struct gpu_range){0}, b->out);
    gpu_expert_matmul(gpu, &down, 1);
    gpu_barrier(gpu);
    const struct gpu_residual residual = {
        .hidden = b->hidden,
        .norm = b->vector,
        .out = b->normed,
        .scale = 1,
        .epsilon = 1e-5f,
        .rows = 1,
        .columns = WIDTH,
        .mix = {.device_rows = b->out, .ids = b->ids, .weights = b->weights, .used = USED}};
    gpu_residual(gpu, &residual);
    gpu_barrier(gpu);
}

void gpu_layer_record(const struct gpu_layer *layer, struct gpu *gpu, struct gpu_buffer *weights, uint64_t bytes,
                      enum tensor_type type, bool mixture, uint32_t count)
{
    struct taking taking = {weights, bytes, 0, type};
    const struct gpu_range none = {0};
    for (uint32_t i = 0; i < count; i++) {
        /* The last launch of a mixture already normed the next layer's input. */
        const struct gpu_range in = mixture ? layer->normed : layer->hidden, norm = mixture ? none : layer->vector;
        const struct gpu_matmul jobs[3] = {job(take(&taking, WIDTH, WIDTH), in, norm, layer->query),
                                           job(take(&taking, KEYS, WIDTH), in, norm, layer->key),
                                           job(take(&taking, KEYS, WIDTH), in, norm, layer->value)};
        gpu_matmul(gpu, jobs, 3);
        gpu_barrier(gpu);
        attend(layer, gpu);
        struct gpu_matmul output = job(take(&taking, WIDTH, WIDTH), layer->attended, none, layer->hidden);
        output.accumulate = true;
        gpu_matmul(gpu, &output, 1);
        gpu_barrier(gpu);
        if (mixture)
            mixture_of_experts(layer, gpu, &taking);
        else
            feed_forward(layer, gpu, &taking);
    }
}
