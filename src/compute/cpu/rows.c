#include "compute/cpu/rows.h"

/* A parallel section takes about as long as this many elements of the cheaper functions. */
#define SECTION_ELEMENTS ((size_t)16384)

/* Workers get multiples of this many elements. */
#define PART_ELEMENTS ((size_t)1024)

const struct row_kernels *row_kernels_of(const struct compute *compute)
{
    switch (compute_instructions(compute)) {
#if defined(__x86_64__)
    case INSTRUCTIONS_AVX2:
    case INSTRUCTIONS_AVX_VNNI:
        return &row_kernels_avx2;
    case INSTRUCTIONS_AVX512:
    case INSTRUCTIONS_AMX:
        return &row_kernels_avx512;
#elif defined(__aarch64__)
    case INSTRUCTIONS_NEON:
        return &row_kernels_neon;
#endif
    default:
        return &row_kernels_plain;
    }
}

/* ---- elements ---------------------------------------------------------------------------------------------------- */

/* A function of count single elements, which may be divided anywhere. */
struct element_job {
    const struct row_kernels *kernels;
    void (*run)(const struct element_job *job, size_t first, size_t count);
    float *out;
    const float *a, *b;
    float factor;
    enum activation_function function;
    size_t count;
};

static void run_elements(void *context, size_t first, size_t count, size_t worker)
{
    (void)worker;
    const struct element_job *job = context;
    first *= PART_ELEMENTS;
    job->run(job, first, MIN(count * PART_ELEMENTS, job->count - first));
}

static void for_elements(struct compute *compute, struct element_job *job)
{
    job->kernels = row_kernels_of(compute);
    if (job->count < SECTION_ELEMENTS)
        job->run(job, 0, job->count);
    else
        thread_pool_run_shares(compute_pool(compute), run_elements, job,
                               (job->count + PART_ELEMENTS - 1) / PART_ELEMENTS);
}

static void run_add(const struct element_job *job, size_t first, size_t count)
{
    job->kernels->add(job->out + first, job->a + first, job->b + first, count);
}

static void run_scale(const struct element_job *job, size_t first, size_t count)
{
    job->kernels->scale(job->out + first, job->a + first, job->factor, count);
}

static void run_function(const struct element_job *job, size_t first, size_t count)
{
    job->kernels->function(job->function, job->out + first, count);
}

static void run_soft_cap(const struct element_job *job, size_t first, size_t count)
{
    job->kernels->soft_cap(job->out + first, count, job->factor);
}

static void run_clamp(const struct element_job *job, size_t first, size_t count)
{
    job->kernels->clamp(job->out + first, count, job->factor);
}

void compute_add(struct compute *compute, float *out, const float *a, const float *b, size_t count)
{
    for_elements(compute, &(struct element_job){.run = run_add, .out = out, .a = a, .b = b, .count = count});
}

void compute_scale(struct compute *compute, float *out, const float *in, float factor, size_t count)
{
    for_elements(compute,
                 &(struct element_job){.run = run_scale, .out = out, .a = in, .factor = factor, .count = count});
}

void compute_function(struct compute *compute, enum activation_function function, float *values, size_t count)
{
    for_elements(compute,
                 &(struct element_job){.run = run_function, .out = values, .function = function, .count = count});
}

void compute_soft_cap(struct compute *compute, float *values, size_t count, float cap)
{
    for_elements(compute, &(struct element_job){.run = run_soft_cap, .out = values, .factor = cap, .count = count});
}

void compute_clamp(struct compute *compute, float *values, size_t count, float limit)
{
    for_elements(compute, &(struct element_job){.run = run_clamp, .out = values, .factor = limit, .count = count});
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

struct row_job {
    const struct row_kernels *kernels;
    void (*run)(const struct row_job *job, size_t row);
    size_t rows, columns;

    float *out;
    size_t out_stride;
    const float *in;
    size_t in_stride;
    const float *up;
    size_t up_stride;
    const float *weight, *bias;
    float epsilon, alpha, limit;
    enum glu_kind glu;

    enum rope_layout layout;
    float direction;
    size_t heads, head_size;
};

static void run_rows(void *context, size_t first, size_t count, size_t worker)
{
    (void)worker;
    const struct row_job *job = context;
    for (size_t row = first; row < first + count; row++)
        job->run(job, row);
}

/* A worker gets the same share of rows from all functions, so that data it wrote is in its caches or on its node. */
static void for_rows(struct compute *compute, struct row_job *job)
{
    job->kernels = row_kernels_of(compute);
    if (job->rows * job->columns < SECTION_ELEMENTS)
        run_rows(job, 0, job->rows, 0);
    else
        thread_pool_run_shares(compute_pool(compute), run_rows, job, job->rows);
}

static void run_rms_norm(const struct row_job *job, size_t row)
{
    size_t at = row * job->columns;
    job->kernels->rms_norm(job->out + at, job->in + at, job->weight, job->columns, job->epsilon);
}

static void run_layer_norm(const struct row_job *job, size_t row)
{
    size_t at = row * job->columns;
    job->kernels->layer_norm(job->out + at, job->in + at, job->weight, job->bias, job->columns, job->epsilon);
}

static void run_glu(const struct row_job *job, size_t row)
{
    job->kernels->glu(job->glu, job->out + row * job->out_stride, job->in + row * job->in_stride,
                      job->up + row * job->up_stride, job->columns, job->alpha, job->limit);
}

static void run_glu_rows(const struct row_job *job, size_t row)
{
    const float one = 1.0f;
    float factor;
    job->kernels->glu(job->glu, &factor, &job->in[row], &one, 1, 0.0f, 0.0f);
    job->kernels->scale(job->out + row * job->columns, job->up + row * job->columns, factor, job->columns);
}

static void run_rope(const struct row_job *job, size_t row)
{
    size_t rotary = job->columns / job->heads;
    for (size_t head = 0; head < job->heads; head++)
        job->kernels->rope(job->layout, job->out + row * job->out_stride + head * job->head_size, rotary,
                           job->in + row * rotary, job->direction);
}

void compute_rms_norm(struct compute *compute, float *out, const float *in, const float *weight, size_t rows,
                      size_t columns, float epsilon)
{
    for_rows(compute, &(struct row_job){.run = run_rms_norm,
                                        .rows = rows,
                                        .columns = columns,
                                        .out = out,
                                        .in = in,
                                        .weight = weight,
                                        .epsilon = epsilon});
}

void compute_layer_norm(struct compute *compute, float *out, const float *in, const float *weight, const float *bias,
                        size_t rows, size_t columns, float epsilon)
{
    for_rows(compute, &(struct row_job){.run = run_layer_norm,
                                        .rows = rows,
                                        .columns = columns,
                                        .out = out,
                                        .in = in,
                                        .weight = weight,
                                        .bias = bias,
                                        .epsilon = epsilon});
}

void compute_glu(struct compute *compute, enum glu_kind kind, float *out, size_t out_stride, const float *gate,
                 size_t gate_stride, const float *up, size_t up_stride, size_t rows, size_t columns, float alpha,
                 float limit)
{
    for_rows(compute, &(struct row_job){.run = run_glu,
                                        .rows = rows,
                                        .columns = columns,
                                        .out = out,
                                        .out_stride = out_stride,
                                        .in = gate,
                                        .in_stride = gate_stride,
                                        .up = up,
                                        .up_stride = up_stride,
                                        .alpha = alpha,
                                        .limit = limit,
                                        .glu = kind});
}

void compute_glu_rows(struct compute *compute, enum glu_kind kind, float *out, const float *gates, const float *up,
                      size_t rows, size_t columns)
{
    for_rows(
        compute,
        &(struct row_job){
            .run = run_glu_rows, .rows = rows, .columns = columns, .out = out, .in = gates, .up = up, .glu = kind});
}

static void turn(struct compute *compute, enum rope_layout layout, float direction, float *values, size_t rows,
                 size_t row_stride, size_t heads, size_t head_size, size_t rotary, const float *table)
{
    if (heads == 0)
        return;
    for_rows(compute, &(struct row_job){.run = run_rope,
                                        .rows = rows,
                                        .columns = heads * rotary,
                                        .out = values,
                                        .out_stride = row_stride,
                                        .in = table,
                                        .layout = layout,
                                        .direction = direction,
                                        .heads = heads,
                                        .head_size = head_size});
}

void compute_rope(struct compute *compute, enum rope_layout layout, float *values, size_t rows, size_t row_stride,
                  size_t heads, size_t head_size, size_t rotary, const float *table)
{
    turn(compute, layout, 1.0f, values, rows, row_stride, heads, head_size, rotary, table);
}

void compute_rope_back(struct compute *compute, enum rope_layout layout, float *values, size_t rows, size_t row_stride,
                       size_t heads, size_t head_size, size_t rotary, const float *table)
{
    turn(compute, layout, -1.0f, values, rows, row_stride, heads, head_size, rotary, table);
}
