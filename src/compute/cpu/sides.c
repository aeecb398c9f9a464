/* Residual streams that predict and correct each other, and other operations of Gemma 3n on rows. Sums have one order,
 * in double precision, which costs little next to the products of a layer. */
#include "compute/cpu/rows.h"

#include <math.h>

/* From this many elements on, a parallel section pays. */
#define PARALLEL_ELEMENTS ((size_t)16 << 10)

struct side_job {
    const struct side_streams *streams;
    float *hidden, *sides;
    const float *branch;
    float *rows;
    const float *by;
    size_t parts, width;
    float deviations;
};

static void for_rows(struct compute *compute, thread_task task, struct side_job *job, size_t rows, size_t elements)
{
    if (rows * elements < PARALLEL_ELEMENTS)
        for (size_t row = 0; row < rows; row++)
            task(job, row, 0);
    else
        thread_pool_run(compute_pool(compute), task, job, rows);
}

/* tanh(router (x / rms(x) * norm / width)): one number per stream. */
static void find_modalities(const struct side_streams *s, const float *x, double *out)
{
    double squares = 0;
    for (size_t i = 0; i < s->width; i++)
        squares += (double)x[i] * x[i];
    const double factor = 1.0 / (sqrt(squares / (double)s->width + (double)s->epsilon) * (double)s->width);
    for (size_t k = 0; k <= s->sides; k++) {
        const float *row = s->router + k * s->width;
        double sum = 0;
        for (size_t i = 0; i < s->width; i++)
            sum += (double)row[i] * x[i] * s->norm[i];
        out[k] = tanh(sum * factor);
    }
}

static double coefficient(const struct side_streams *s, const double *modalities, size_t index)
{
    const float *row = s->coefficients + index * (s->sides + 1);
    double sum = 0;
    for (size_t k = 0; k <= s->sides; k++)
        sum += row[k] * modalities[k];
    return sum;
}

static float *stream_of(const struct side_job *job, size_t row, size_t stream)
{
    const struct side_streams *s = job->streams;
    return stream == 0 ? job->hidden + row * s->width : job->sides + (row * s->sides + stream - 1) * s->width;
}

static void predict_row(void *context, size_t row, size_t worker)
{
    const struct side_job *job = context;
    const struct side_streams *s = job->streams;
    const size_t count = s->sides + 1;
    double modalities[SIDES_MAX + 1], weights[(SIDES_MAX + 1) * (SIDES_MAX + 1)];
    float *streams[SIDES_MAX + 1];
    (void)worker;
    find_modalities(s, stream_of(job, row, 0), modalities);
    for (size_t i = 0; i < count * count; i++)
        weights[i] = coefficient(s, modalities, i) + (i % (count + 1) == 0 ? 1.0 : 0.0);
    for (size_t a = 0; a < count; a++)
        streams[a] = stream_of(job, row, a);
    for (size_t i = 0; i < s->width; i++) {
        double old[SIDES_MAX + 1];
        for (size_t a = 0; a < count; a++)
            old[a] = streams[a][i];
        for (size_t a = 0; a < count; a++) {
            double sum = 0;
            for (size_t c = 0; c < count; c++)
                sum += weights[a * count + c] * old[c];
            streams[a][i] = (float)sum;
        }
    }
}

static void correct_row(void *context, size_t row, size_t worker)
{
    const struct side_job *job = context;
    const struct side_streams *s = job->streams;
    const float *branch = job->branch + row * s->width;
    double modalities[SIDES_MAX + 1], weights[SIDES_MAX + 1];
    float *streams[SIDES_MAX + 1];
    (void)worker;
    find_modalities(s, branch, modalities);
    for (size_t a = 0; a <= s->sides; a++) {
        weights[a] = coefficient(s, modalities, a) + 1.0;
        streams[a] = stream_of(job, row, a);
    }
    for (size_t i = 0; i < s->width; i++) {
        const double difference = (double)branch[i] - streams[0][i];
        for (size_t a = 0; a <= s->sides; a++)
            streams[a][i] = (float)(streams[a][i] + difference * weights[a]);
        job->rows[row * s->width + i] = streams[0][i] * s->scale[i];
    }
}

void compute_predict_sides(struct compute *compute, const struct side_streams *streams, float *hidden, float *sides,
                           size_t rows)
{
    struct side_job job = {.streams = streams, .hidden = hidden, .sides = sides};
    for_rows(compute, predict_row, &job, rows, (streams->sides + 1) * streams->width);
}

void compute_correct_sides(struct compute *compute, const struct side_streams *streams, float *hidden, float *sides,
                           const float *branch, float *out, size_t rows)
{
    struct side_job job = {.streams = streams, .hidden = hidden, .sides = sides, .branch = branch, .rows = out};
    for_rows(compute, correct_row, &job, rows, (streams->sides + 1) * streams->width);
}

static double length_of(const float *row, size_t width)
{
    double squares = 0;
    for (size_t i = 0; i < width; i++)
        squares += (double)row[i] * row[i];
    return sqrt(squares);
}

static void match_row(void *context, size_t row, size_t worker)
{
    const struct side_job *job = context;
    const double wanted = length_of(job->by + row * job->width, job->width);
    (void)worker;
    for (size_t p = 0; p < job->parts; p++) {
        float *part = job->rows + (row * job->parts + p) * job->width;
        const double length = length_of(part, job->width), factor = length > 0.0 ? wanted / length : 0.0;
        for (size_t i = 0; i < job->width; i++)
            part[i] = (float)(part[i] * factor);
    }
}

void compute_match_lengths(struct compute *compute, float *values, const float *by, size_t rows, size_t parts,
                           size_t width)
{
    struct side_job job = {.rows = values, .by = by, .parts = parts, .width = width};
    for_rows(compute, match_row, &job, rows, (parts + 1) * width);
}

static void sparse_row(void *context, size_t row, size_t worker)
{
    const struct side_job *job = context;
    float *values = job->rows + row * job->width;
    double sum = 0, squares = 0;
    (void)worker;
    for (size_t i = 0; i < job->width; i++)
        sum += values[i];
    const double mean = sum / (double)job->width;
    for (size_t i = 0; i < job->width; i++)
        squares += (values[i] - mean) * (values[i] - mean);
    const double deviation = sqrt(squares / (double)MAX(job->width - 1, (size_t)1));
    const float least = (float)(mean + (double)job->deviations * deviation);
    for (size_t i = 0; i < job->width; i++)
        values[i] = values[i] > least ? values[i] - least : 0.0f;
}

void compute_sparse(struct compute *compute, float *values, size_t rows, size_t width, float deviations)
{
    struct side_job job = {.rows = values, .width = width, .deviations = deviations};
    for_rows(compute, sparse_row, &job, rows, width);
}
