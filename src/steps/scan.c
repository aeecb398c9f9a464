/* Layers with a state instead of a cache, or in addition to one: scans of state spaces, and short convolutions. */
#include "steps/steps_private.h"

/* A product with some rows of a matrix. */
static void add_part(struct builder *b, struct step *step, enum tensor_role role, enum step_buffer out, uint32_t first,
                     uint32_t rows)
{
    add_matrix(b, step, role, out);
    struct step_matrix *matrix = &step->multiply.matrices[step->multiply.count - 1];
    matrix->first = first;
    matrix->rows = rows;
}

static uint32_t inner_of(const struct builder *b)
{
    return b->p->recurrent_heads_v * b->p->recurrent_value_size;
}

/* The convolution before a scan, from parts of the raw rows. */
static void convolve(struct builder *b, struct step_rows in, uint32_t groups, uint32_t width, bool silu)
{
    add_step(b, STEP_CONVOLVE)->convolve = (struct step_convolve){.in = in,
                                                                  .out = BUFFER_QUERY,
                                                                  .weights = unit_of(b, ROLE_RECURRENT_CONV),
                                                                  .bias = unit_of(b, ROLE_RECURRENT_CONV_BIAS),
                                                                  .groups = groups,
                                                                  .width = width,
                                                                  .taps = b->p->recurrent_conv,
                                                                  .silu = silu};
}

/* A scan of the convolution's output, with rows of this width. */
static struct step_scan *scan(struct builder *b, uint32_t row, enum step_buffer out)
{
    const struct model_parameters *p = b->p;
    struct step *step = add_step(b, STEP_SCAN);
    step->scan = (struct step_scan){.in = {BUFFER_QUERY, 0, row},
                                    .write = {BUFFER_KEY, 0, p->recurrent_key_size},
                                    .read = {BUFFER_READING, 0, p->recurrent_key_size},
                                    .steps = BUFFER_DECAY,
                                    .out = out,
                                    .step_bias = NO_UNIT,
                                    .rates = unit_of(b, ROLE_RECURRENT_A),
                                    .skip = unit_of(b, ROLE_RECURRENT_D),
                                    .heads = p->recurrent_heads_v,
                                    .groups = p->recurrent_heads_k,
                                    .width = p->recurrent_value_size,
                                    .size = p->recurrent_key_size};
    return &step->scan;
}

/* Gates the output, in this many groups of floats. */
static void gate(struct builder *b, struct step_rows gate, enum step_buffer rows, uint32_t groups, uint32_t width)
{
    add_step(b, STEP_GLU)->glu = (struct step_glu){
        .kind = GLU_SILU, .gate = gate, .up = {rows, 0, width}, .out = rows, .groups = groups, .width = width};
}

static void multiply_out(struct builder *b, enum step_buffer rows, enum step_buffer out)
{
    add_matrix(b, add_multiply(b, rows, inner_of(b)), ROLE_RECURRENT_OUT, out);
}

/* ---- Mamba 2 (Dao and Gu, 2024) ------------------------------------------------------------------------------------
 *
 * One matrix gives the gate, the convolution's input (the heads' x, and their groups' b and c), and the time steps. The
 * gate is applied before the norm of each group. */

void make_scan_of_heads(struct builder *b, enum step_buffer in, enum step_buffer own, enum step_buffer out)
{
    const struct model_parameters *p = b->p;
    const uint32_t inner = inner_of(b), shared = p->recurrent_heads_k * p->recurrent_key_size;
    const uint32_t channels = inner + 2 * shared;
    struct step *products = add_multiply(b, in, p->embedding);
    add_part(b, products, ROLE_RECURRENT_IN, BUFFER_VALUE, 0, inner);
    add_part(b, products, ROLE_RECURRENT_IN, BUFFER_RAW, inner, channels);
    add_part(b, products, ROLE_RECURRENT_IN, BUFFER_DECAY, inner + channels, p->recurrent_heads_v);
    convolve(b, (struct step_rows){BUFFER_RAW, 0, channels}, 1, channels, true);
    struct step_scan *s = scan(b, channels, own);
    s->write = (struct step_rows){BUFFER_QUERY, inner, channels};
    s->read = (struct step_rows){BUFFER_QUERY, inner + shared, channels};
    s->step_bias = unit_of(b, ROLE_RECURRENT_DT_BIAS);
    gate(b, (struct step_rows){BUFFER_VALUE, 0, inner}, own, 1, inner);
    if (unit_of(b, ROLE_RECURRENT_NORM) != NO_UNIT)
        add_groups_norm(b, own, own, unit_of(b, ROLE_RECURRENT_NORM), p->recurrent_heads_k,
                        inner / p->recurrent_heads_k)
            ->norm.each = true;
    multiply_out(b, own, out);
}

/* ---- Mamba 1 (Gu and Dao, 2023) ------------------------------------------------------------------------------------
 *
 * b, c and the time steps are projections of the convolution's output; the time steps at low rank. Each of them may be
 * normed. PLaMo 2 does the same, with the heads of Mamba 2. */

static void norm_part(struct builder *b, enum step_buffer buffer, enum tensor_role role, uint32_t width)
{
    if (unit_of(b, role) != NO_UNIT || b->p->recurrent_rms)
        add_groups_norm(b, buffer, buffer, unit_of(b, role), 1, width);
}

/* In the matrix, the rows of b begin at "written"; those of c follow. */
static void make_steps(struct builder *b, uint32_t rank_at, uint32_t written)
{
    const struct model_parameters *p = b->p;
    const uint32_t size = p->recurrent_key_size;
    struct step *products = add_multiply(b, BUFFER_QUERY, inner_of(b));
    add_part(b, products, ROLE_RECURRENT_X, BUFFER_LATENTS, rank_at, p->recurrent_rank);
    add_part(b, products, ROLE_RECURRENT_X, BUFFER_KEY, written, size);
    add_part(b, products, ROLE_RECURRENT_X, BUFFER_READING, written + size, size);
    norm_part(b, BUFFER_LATENTS, ROLE_RECURRENT_DT_NORM, p->recurrent_rank);
    norm_part(b, BUFFER_KEY, ROLE_RECURRENT_B_NORM, size);
    norm_part(b, BUFFER_READING, ROLE_RECURRENT_C_NORM, size);
    add_matrix(b, add_multiply(b, BUFFER_LATENTS, p->recurrent_rank), ROLE_RECURRENT_DT, BUFFER_DECAY);
}

void make_scan(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    const uint32_t inner = inner_of(b);
    struct step *products = add_multiply(b, in, b->p->embedding);
    add_part(b, products, ROLE_RECURRENT_IN, BUFFER_RAW, 0, inner);
    add_part(b, products, ROLE_RECURRENT_IN, BUFFER_VALUE, inner, inner);
    convolve(b, (struct step_rows){BUFFER_RAW, 0, inner}, 1, inner, true);
    make_steps(b, 0, b->p->recurrent_rank);
    scan(b, inner, BUFFER_ATTENDED)->each = true;
    gate(b, (struct step_rows){BUFFER_VALUE, 0, inner}, BUFFER_ATTENDED, 1, inner);
    multiply_out(b, BUFFER_ATTENDED, out);
}

/* In the raw rows, each head's input follows its gate. */
void make_scan_between(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    const struct model_parameters *p = b->p;
    const uint32_t heads = p->recurrent_heads_v, width = p->recurrent_value_size;
    add_matrix(b, add_multiply(b, in, p->embedding), ROLE_RECURRENT_IN, BUFFER_RAW);
    convolve(b, (struct step_rows){BUFFER_RAW, width, 2 * width}, heads, width, true);
    make_steps(b, 2 * p->recurrent_key_size, 0);
    scan(b, heads * width, BUFFER_ATTENDED);
    gate(b, (struct step_rows){BUFFER_RAW, 0, 2 * width}, BUFFER_ATTENDED, heads, width);
    multiply_out(b, BUFFER_ATTENDED, out);
}

/* ---- short convolutions (LFM 2) ------------------------------------------------------------------------------------
 *
 * There are three projections. The product of two is convolved; the third gates the output. */

void make_short_convolution(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    const uint32_t width = inner_of(b);
    struct step *products = add_multiply(b, in, b->p->embedding);
    add_part(b, products, ROLE_RECURRENT_IN, BUFFER_KEY, 0, width);
    add_part(b, products, ROLE_RECURRENT_IN, BUFFER_VALUE, width, width);
    add_part(b, products, ROLE_RECURRENT_IN, BUFFER_RAW, 2 * width, width);
    add_step(b, STEP_GLU)->glu = (struct step_glu){.kind = GLU_PRODUCT,
                                                   .gate = {BUFFER_KEY, 0, width},
                                                   .up = {BUFFER_RAW, 0, width},
                                                   .out = BUFFER_RAW,
                                                   .groups = 1,
                                                   .width = width};
    convolve(b, (struct step_rows){BUFFER_RAW, 0, width}, 1, width, false);
    add_step(b, STEP_GLU)->glu = (struct step_glu){.kind = GLU_PRODUCT,
                                                   .gate = {BUFFER_VALUE, 0, width},
                                                   .up = {BUFFER_QUERY, 0, width},
                                                   .out = BUFFER_ATTENDED,
                                                   .groups = 1,
                                                   .width = width};
    multiply_out(b, BUFFER_ATTENDED, out);
}
