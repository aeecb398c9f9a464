/* Experts that groups of experts share (GroveMoE). They read the sum of the chosen experts, and each chosen expert adds
 * the shared one of its group. They are few and small, so the matrices of all are held. */
#include "engine/cpu/execute.h"

#include <string.h>

/* As in router.c. */
#define LEAST_SUM 6.103515625e-5f

struct chunk_matrices {
    struct matrix gate, up, down;
};

/* Sorts rows by the expert that their group of one choice shares: expert e has those of expert_token from
 * expert_first[e] to expert_first[e + 1]. */
static void sort_rows(struct batch *batch, const struct step_chunk_experts *x, uint32_t choice)
{
    struct scratch *s = &batch->scratch;
    const uint32_t all = model_parameters(batch->open->model)->experts_used;
    uint32_t *first = s->expert_first;
    memset(first, 0, (x->experts + 1) * sizeof *first);
    for (size_t r = 0; r < batch->rows; r++)
        first[s->chosen[r * all + choice] / x->group + 1]++;
    for (uint32_t e = 0; e < x->experts; e++)
        first[e + 1] += first[e];
    for (size_t r = 0; r < batch->rows; r++)
        s->expert_token[first[s->chosen[r * all + choice] / x->group]++] = (uint32_t)r;
    memmove(first + 1, first, x->experts * sizeof *first);
    first[0] = 0;
}

/* Adds one product per expert, with its part of "all" and its rows. Returns the number of jobs. */
static size_t add_jobs(struct batch *batch, const struct step_chunk_experts *x, const struct matrix *all,
                       struct activation *input, float *output, size_t jobs)
{
    const struct scratch *s = &batch->scratch;
    const size_t height = all->rows / x->experts;
    for (uint32_t e = 0; e < x->experts; e++) {
        const uint32_t first = s->expert_first[e], rows = s->expert_first[e + 1] - first;
        if (rows)
            s->jobs[jobs++] = (struct matmul){.weights = matrix_rows(all, e * height, height),
                                              .input = input,
                                              .input_rows = s->expert_token + first,
                                              .tokens = rows,
                                              .output = output,
                                              .output_stride = height,
                                              .output_rows = s->expert_token + first};
    }
    return jobs;
}

/* Computes the shared experts of one choice of each row, into expert_out. */
static void compute_choice(struct batch *batch, const struct step_chunk_experts *x, const struct chunk_matrices *m)
{
    struct scratch *s = &batch->scratch;
    const size_t embedding = model_parameters(batch->open->model)->embedding, width = x->width;
    float *gate = rows_of(batch, BUFFER_GATE), *up = rows_of(batch, BUFFER_UP);
    struct activation *input = input_of(batch, x->buffer, embedding, embedding, 0), *inner = s->inputs[1].activation;
    size_t jobs = add_jobs(batch, x, &m->gate, input, gate, 0);
    jobs = add_jobs(batch, x, &m->up, input, up, jobs);
    compute_matmul(batch->compute, s->jobs, jobs);
    compute_glu(batch->compute, x->glu, gate, width, gate, width, up, width, batch->rows, width, 0.0f, 0.0f);
    activation_set(inner, gate, batch->rows, width, width);
    jobs = add_jobs(batch, x, &m->down, inner, s->expert_out, 0);
    compute_matmul(batch->compute, s->jobs, jobs);
}

hypura_status run_chunk_experts(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_chunk_experts *x = &step->chunk_experts;
    const struct model_parameters *p = model_parameters(batch->open->model);
    const struct scratch *s = &batch->scratch;
    float *rows = rows_of(batch, x->buffer), *sum = rows_of(batch, x->sum);
    const size_t count = batch->rows * p->embedding;
    struct chunk_matrices matrices;
    TRY(hold_matrix(batch, held, x->gate, &matrices.gate, error));
    TRY(hold_matrix(batch, held, x->up, &matrices.up, error));
    TRY(hold_matrix(batch, held, x->down, &matrices.down, error));
    memset(sum, 0, count * sizeof *sum);
    for (uint32_t choice = 0; choice < x->used; choice++) {
        sort_rows(batch, x, choice);
        compute_choice(batch, x, &matrices);
        for (size_t r = 0; r < batch->rows; r++) {
            const float *weights = s->chunk_weights + r * p->experts_used;
            const float *from = s->expert_out + r * p->embedding;
            float *to = sum + r * p->embedding, all = 0.0f;
            for (uint32_t i = 0; i < x->used; i++)
                all += weights[i];
            const float weight = weights[choice] / MAX(all, LEAST_SUM);
            for (size_t c = 0; c < p->embedding; c++)
                to[c] += weight * from[c];
        }
    }
    compute_scale(batch->compute, sum, sum, x->scale, count);
    compute_add(batch->compute, rows, rows, sum, count);
    forget_inputs(batch, 1u << BUFFER_GATE | 1u << BUFFER_UP);
    return HYPURA_OK;
}
