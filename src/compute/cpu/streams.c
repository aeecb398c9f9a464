#include "compute/cpu/rows.h"

#include <math.h>
#include <string.h>

/* From this many elements on, a parallel section pays. */
#define PARALLEL_ELEMENTS ((size_t)16 << 10)

struct stream_job {
    const struct row_kernels *kernels;
    const struct stream_mixer *mixer;
    float *streams, *coefficients, *out;
    const float *branch;
};

size_t stream_coefficients(const struct stream_mixer *mixer)
{
    size_t back = mixer->returns ? 1 + (mixer->sinkhorn ? mixer->streams : 0) : 0;
    return mixer->streams * (1 + back);
}

static float sigmoid(float a)
{
    return 1.0f / (1.0f + expf(-a));
}

/* ---- the matrix -------------------------------------------------------------------------------------------------- */

static void divide_rows(float *matrix, size_t size, float epsilon)
{
    for (size_t from = 0; from < size; from++, matrix += size) {
        float sum = 0.0f;
        for (size_t to = 0; to < size; to++)
            sum += matrix[to];
        for (size_t to = 0; to < size; to++)
            matrix[to] /= sum + epsilon;
    }
}

static void divide_columns(float *matrix, size_t size, float epsilon)
{
    for (size_t to = 0; to < size; to++) {
        float sum = 0.0f;
        for (size_t from = 0; from < size; from++)
            sum += matrix[from * size + to];
        for (size_t from = 0; from < size; from++)
            matrix[from * size + to] /= sum + epsilon;
    }
}

/* After a softmax of each row, normalises columns and rows in turn to sums of 1 (Sinkhorn and Knopp, 1967). */
static void balance(float *matrix, size_t size, uint32_t rounds, float epsilon)
{
    for (size_t from = 0; from < size; from++) {
        float *row = matrix + from * size, most = row[0], sum = 0.0f;
        for (size_t to = 1; to < size; to++)
            most = row[to] > most ? row[to] : most;
        for (size_t to = 0; to < size; to++) {
            row[to] = expf(row[to] - most);
            sum += row[to];
        }
        for (size_t to = 0; to < size; to++)
            row[to] = row[to] / sum + epsilon;
    }
    divide_columns(matrix, size, epsilon);
    for (uint32_t round = 1; round < rounds; round++) {
        divide_rows(matrix, size, epsilon);
        divide_columns(matrix, size, epsilon);
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static void gather_row(void *context, size_t row, size_t worker)
{
    const struct stream_job *job = context;
    const struct stream_mixer *m = job->mixer;
    const size_t count = m->streams, flat = count * m->width;
    float *streams = job->streams + row * flat, *c = job->coefficients + row * stream_coefficients(m);
    const float factor = job->kernels->rms_factor(streams, flat, m->norm_epsilon);
    (void)worker;
    for (size_t s = 0; s < count; s++)
        c[s] = sigmoid(c[s] * factor * m->scale[0] + m->base[s]) + m->epsilon;
    for (size_t s = count; m->returns && s < 2 * count; s++)
        c[s] = m->magnitude * sigmoid(c[s] * factor * m->scale[1] + m->base[s]) + m->back_epsilon;
    if (m->returns && m->sinkhorn) {
        for (size_t i = 2 * count; i < (2 + count) * count; i++)
            c[i] = c[i] * factor * m->scale[2] + m->base[i];
        balance(c + 2 * count, count, m->sinkhorn, m->epsilon);
    }
    job->kernels->gather(job->out + row * m->width, streams, c, count, m->width);
}

static void scatter_row(void *context, size_t row, size_t worker)
{
    const struct stream_job *job = context;
    const struct stream_mixer *m = job->mixer;
    const size_t count = m->streams;
    const float *c = job->coefficients + row * stream_coefficients(m);
    (void)worker;
    job->kernels->scatter(job->streams + row * count * m->width, job->branch + row * m->width, c + count,
                          m->sinkhorn ? c + 2 * count : NULL, count, m->width);
}

static void run_rows(struct compute *compute, thread_task task, struct stream_job *job, size_t rows)
{
    job->kernels = row_kernels_of(compute);
    if (rows * job->mixer->streams * job->mixer->width < PARALLEL_ELEMENTS)
        for (size_t row = 0; row < rows; row++)
            task(job, row, 0);
    else
        thread_pool_run(compute_pool(compute), task, job, rows);
}

void compute_gather_streams(struct compute *compute, const struct stream_mixer *mixer, const float *streams,
                            float *coefficients, float *out, size_t rows)
{
    struct stream_job job = {.mixer = mixer, .streams = (float *)streams, .coefficients = coefficients, .out = out};
    run_rows(compute, gather_row, &job, rows);
}

void compute_scatter_streams(struct compute *compute, const struct stream_mixer *mixer, float *streams,
                             const float *coefficients, const float *branch, size_t rows)
{
    struct stream_job job = {
        .mixer = mixer, .streams = streams, .coefficients = (float *)coefficients, .branch = branch};
    run_rows(compute, scatter_row, &job, rows);
}

/* ---- kept rows --------------------------------------------------------------------------------------------------- */

struct recall {
    const struct row_kernels *kernels;
    float *bank, *out;
    const float *rows, *weight;
    size_t stride, kept, width;
    float epsilon;
};

static void recall_row(void *context, size_t row, size_t worker)
{
    const struct recall *job = context;
    const struct row_kernels *k = job->kernels;
    float *bank = job->bank + row * job->stride, scores[RECALL_MAX], most = -INFINITY, sum = 0.0f;
    const size_t width = job->width, count = job->kept + 1;
    (void)worker;
    memcpy(bank + job->kept * width, job->rows + row * width, width * sizeof *bank);
    for (size_t i = 0; i < count; i++) {
        scores[i] = k->dot(bank + i * width, job->weight, width) * k->rms_factor(bank + i * width, width, job->epsilon);
        most = fmaxf(most, scores[i]);
    }
    for (size_t i = 0; i < count; i++) {
        scores[i] = expf(scores[i] - most);
        sum += scores[i];
    }
    for (size_t i = 0; i < count; i++)
        scores[i] /= sum;
    k->gather(job->out + row * width, bank, scores, count, width);
}

void compute_recall(struct compute *compute, float *bank, size_t bank_stride, size_t kept, const float *row,
                    const float *weight, float epsilon, float *out, size_t rows, size_t width)
{
    struct recall job = {row_kernels_of(compute), bank, out, row, weight, bank_stride, kept, width, epsilon};
    if (rows * (kept + 1) * width < PARALLEL_ELEMENTS)
        for (size_t i = 0; i < rows; i++)
            recall_row(&job, i, 0);
    else
        thread_pool_run(compute_pool(compute), recall_row, &job, rows);
}

/* ---- low rank ---------------------------------------------------------------------------------------------------- */

struct gated_job {
    const struct row_kernels *kernels;
    const struct gated_gather *gather;
};

static void gather_gated_row(void *context, size_t row, size_t worker)
{
    const struct gated_job *job = context;
    const struct gated_gather *g = job->gather;
    const size_t flat = g->streams * g->width;
    float *gates = g->gates + row * flat, weights[STREAMS_MAX];
    (void)worker;
    for (size_t s = 0; s < g->streams; s++)
        weights[s] = 1.0f / (float)g->streams;
    job->kernels->glu(GLU_SIGMOID, gates, gates, g->values + row * flat, flat, 0.0f, 0.0f);
    job->kernels->gather(g->out + row * g->width, gates, weights, g->streams, g->width);
    for (size_t s = 0; g->inject && s < g->streams; s++) {
        float *back = g->coefficients + row * 2 * g->streams + s;
        back[0] = 0.0f;
        back[g->streams] = 2.0f * sigmoid(g->inject[row * g->streams + s] / (float)g->streams);
    }
}

void compute_gather_gated(struct compute *compute, const struct gated_gather *gather, size_t rows)
{
    struct gated_job job = {.kernels = row_kernels_of(compute), .gather = gather};
    if (rows * gather->streams * gather->width < PARALLEL_ELEMENTS)
        for (size_t row = 0; row < rows; row++)
            gather_gated_row(&job, row, 0);
    else
        thread_pool_run(compute_pool(compute), gather_gated_row, &job, rows);
}

/* ---- matching ---------------------------------------------------------------------------------------------------- */

struct match_job {
    const struct row_kernels *kernels;
    const struct stream_match *match;
};

static void match_row(void *context, size_t row, size_t worker)
{
    const struct match_job *job = context;
    const struct stream_match *m = job->match;
    const float *value = m->values + row * m->width;
    (void)worker;
    for (size_t s = 0; s < m->streams; s++) {
        size_t at = (row * m->streams + s) * m->width;
        float match = job->kernels->dot(m->keys + at, m->queries + at, m->width) / sqrtf((float)m->width);
        float root = sqrtf(fmaxf(fabsf(match), 1e-6f));
        float gate = sigmoid(match > 0.0f ? root : match < 0.0f ? -root : 0.0f);
        for (size_t i = 0; i < m->width; i++)
            m->out[at + i] = gate * value[i];
    }
}

void compute_match_streams(struct compute *compute, const struct stream_match *match, size_t rows)
{
    struct match_job job = {row_kernels_of(compute), match};
    if (rows * match->streams * match->width < PARALLEL_ELEMENTS)
        for (size_t row = 0; row < rows; row++)
            match_row(&job, row, 0);
    else
        thread_pool_run(compute_pool(compute), match_row, &job, rows);
}
