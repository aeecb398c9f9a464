/* Inputs and weights that are converted to halves before they are multiplied. */
#include "gpu_product.h"

#include "compute/vulkan/gpu_private.h"
#include "core/half.h"

static float *floats_of(uint16_t *halves, size_t count)
{
    float *floats = malloc(count * sizeof *floats);
    assert_non_null(floats);
    for (size_t i = 0; i < count; i++)
        floats[i] = half_to_float(halves[i]);
    free(halves);
    return floats;
}

/* The error of rounding to halves. A driver may truncate instead. */
#define ROUNDING 1e-3

static void makes_halves(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 27);
    const uint32_t rows = 5, columns = 1208, count = rows * columns;
    float *gate = gpu_test_floats(&random, count), *up = gpu_test_floats(&random, count);
    gate[3] = 1e6f;
    gate[4] = -1e6f;
    struct gpu_range gates = gpu_test_range(gpu, gate, count * 4), ups = gpu_test_range(gpu, up, count * 4);
    struct gpu_range plain = gpu_test_range(gpu, NULL, count * 2);
    gpu_begin(gpu);
    gpu_halves(gpu, plain, gates, count);
    gpu_test_run(gpu);
    float *made = floats_of(gpu_test_take(gpu, plain, count * 2), count);
    assert_true(made[3] == 65504.0f && made[4] == -65504.0f);
    gate[3] = 65504;
    gate[4] = -65504;
    assert_true(gpu_test_error(made, gate, count) < ROUNDING);
    free(made);
    for (int kind = GLU_SILU; kind < GLU_KINDS; kind++) {
        struct gpu_range halves = gpu_test_range(gpu, NULL, count * 2), out = gpu_test_range(gpu, NULL, count * 4);
        /* Skip the first values, two of which exceed the range. */
        const uint32_t from = 8;
        gpu_begin(gpu);
        gpu_glu_halves(gpu, (enum glu_kind)kind, halves, (struct gpu_range){gates.buffer, from * 4},
                       (struct gpu_range){ups.buffer, from * 4}, count - from, 1.7f, 7);
        gpu_glu(gpu, (enum glu_kind)kind, out, (struct gpu_range){gates.buffer, from * 4},
                (struct gpu_range){ups.buffer, from * 4}, 1, count - from, count - from, count - from, 1.7f, 7);
        gpu_test_run(gpu);
        made = floats_of(gpu_test_take(gpu, halves, (count - from) * 2), count - from);
        float *expected = gpu_test_take(gpu, out, (count - from) * 4);
        if (!(gpu_test_error(made, expected, count - from) < ROUNDING))
            fail_msg("kind %d: the error is %g", kind, gpu_test_error(made, expected, count - from));
        free(made);
        free(expected);
    }
    gpu_begin(gpu);
    gpu_halves(gpu, gates, gates, 12);
    gpu_ticket ticket;
    assert_int_equal(gpu_submit(gpu, &ticket, 0, &test_error), HYPURA_ERROR_ARGUMENT);
    gpu_buffer_destroy(gpu, gates.buffer);
    gpu_buffer_destroy(gpu, ups.buffer);
    free(gate);
    free(up);
}

static void unpacks_weights(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 28);
    const uint32_t rows = 19;
    for (size_t i = 0; i < 2 * COUNT_OF(types); i++) {
        const enum tensor_type type = types[i / 2];
        const uint32_t columns = i % 2 ? 768 : 512; /* a work group unpacks whole rows, or not */
        if (!gpu_unpacks(type))
            continue;
        struct product product = product_create(gpu, &random, type, rows, columns);
        struct gpu_range out = gpu_test_range(gpu, NULL, rows * columns * 2);
        gpu_begin(gpu);
        gpu_unpack(gpu, &product.matrix, out);
        gpu_test_run(gpu);
        float *values = floats_of(gpu_test_take(gpu, out, rows * columns * 2), rows * columns);
        double error = gpu_test_error(values, product.values, rows * columns);
        if (!(error < ROUNDING))
            fail_msg("%s: the error is %g", tensor_type_info(type)->name, error);
        free(values);
        product_destroy(gpu, &product);
    }
}

/* Where a half of a row is in panels, as shaders/panels.glsl describes. */
static uint32_t place_in_panels(uint32_t row, uint32_t column, uint32_t columns)
{
    const uint32_t panel = row / 64 * (columns / 16) + column / 16;
    return panel * 1024 + row % 64 / 8 * 128 + column % 16 / 8 * 64 + row % 8 * 8 + column % 8;
}

/* Panels have the halves of rows. Several matrices follow one another. */
static void unpacks_weights_into_panels(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 31);
    const uint32_t rows = 76, columns = 768, matrices = 2;
    const size_t room = (size_t)2 * GPU_PANEL_ROWS * columns * 2, plain_room = (size_t)matrices * rows * columns * 2;
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        const bool halves = types[i] == TENSOR_F16;
        if (!halves && !gpu_unpacks(types[i]))
            continue;
        struct product product = product_create(gpu, &random, types[i], matrices * rows, columns);
        struct gpu_range panels = gpu_test_range(gpu, NULL, matrices * room),
                         plain = gpu_test_range(gpu, NULL, plain_room);
        struct gpu_matrix first = product.matrix;
        first.rows = rows;
        gpu_begin(gpu);
        halves_unpack_panels(gpu, &first, panels, matrices, rows * first.row_bytes, room);
        if (!halves)
            gpu_unpack(gpu, &product.matrix, plain);
        gpu_test_run(gpu);
        uint16_t *got = gpu_test_take(gpu, panels, matrices * room), *unpacked = gpu_test_take(gpu, plain, plain_room);
        const uint16_t *expected = halves ? (const uint16_t *)product.weights : unpacked;
        for (uint32_t r = 0; r < matrices * rows; r++)
            for (uint32_t c = 0; c < columns; c++) {
                const size_t at = r / rows * (room / 2) + place_in_panels(r % rows, c, columns);
                if (got[at] != expected[r * columns + c])
                    fail_msg("%s: row %u, column %u", tensor_type_info(types[i])->name, r, c);
            }
        free(got);
        free(unpacked);
        product_destroy(gpu, &product);
    }
}

/* Two jobs with the same inputs. */
static void make_halves_and_multiply(struct gpu *gpu, struct gpu_range halves, struct gpu_range input,
                                     const struct gpu_matmul jobs[2])
{
    gpu_begin(gpu);
    gpu_halves(gpu, halves, input, (uint64_t)jobs->tokens * jobs->in_stride);
    gpu_barrier(gpu);
    gpu_matmul(gpu, jobs, 2);
    gpu_test_run(gpu);
}

/* Two matrices give the same bits with float inputs, with halves, and with halves and weights that are unpacked in
 * advance, part by part. */
static void halves_change_no_bit(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 29);
    const uint32_t columns = 512, tokens = 260, rows[] = {300, 40};
    size_t in_count = (size_t)tokens * columns;
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        if (gpu_get_info(gpu)->kind == GPU_CPU && i % 5 != 3)
            continue;
        float *in = gpu_test_floats(&random, in_count), *outputs[2][3];
        struct gpu_range input = gpu_test_range(gpu, in, in_count * 4),
                         halves = gpu_test_range(gpu, NULL, in_count * 2);
        uint64_t room = 256 * columns * 2;
        struct gpu_range unpacked = gpu_test_range(gpu, NULL, room);
        struct product products[2];
        for (size_t m = 0; m < 2; m++)
            products[m] = product_create(gpu, &random, types[i], rows[m], columns);
        bool takes = gpu_takes_halves(gpu, &products[0].matrix, 0, tokens);
        assert_true(takes == (gpu_get_info(gpu)->cooperative_matrix && types[i] != TENSOR_F32));
        for (int way = 0; way < 3; way++) {
            struct gpu_matmul jobs[2];
            for (size_t m = 0; m < 2; m++)
                jobs[m] = (struct gpu_matmul){.weights = products[m].matrix,
                                              .in = way && takes ? (struct gpu_range){0} : input,
                                              .in_halves = way ? halves : (struct gpu_range){0},
                                              .out = gpu_test_range(gpu, NULL, (size_t)rows[m] * tokens * 4),
                                              .unpacked = way == 2 ? unpacked : (struct gpu_range){0},
                                              .unpacked_bytes = way == 2 ? room : 0,
                                              .tokens = tokens,
                                              .in_stride = columns,
                                              .out_stride = rows[m]};
            make_halves_and_multiply(gpu, halves, input, jobs);
            for (size_t m = 0; m < 2; m++)
                outputs[m][way] = gpu_test_take(gpu, jobs[m].out, (size_t)rows[m] * tokens * 4);
        }
        for (size_t m = 0; m < 2; m++) {
            size_t bytes = (size_t)rows[m] * tokens * 4;
            if (memcmp(outputs[m][0], outputs[m][1], bytes) != 0 || memcmp(outputs[m][0], outputs[m][2], bytes) != 0)
                fail_msg("%s: halves give other bits", tensor_type_info(types[i])->name);
            double error = 0;
            for (uint32_t t = 0; t < tokens; t += 7)
                for (uint32_t r = 0; r < rows[m]; r += 11)
                    error = fmax(
                        error, fabs(outputs[m][0][(size_t)t * rows[m] + r] -
                                    dot(products[m].values + (size_t)r * columns, in + (size_t)t * columns, columns)));
            double largest = 0;
            for (size_t at = 0; at < (size_t)rows[m] * tokens; at++)
                largest = fmax(largest, fabs(outputs[m][0][at]));
            assert_true(error < 2e-3 * largest);
            for (int way = 0; way < 3; way++)
                free(outputs[m][way]);
            product_destroy(gpu, &products[m]);
        }
        gpu_buffer_destroy(gpu, input.buffer);
        gpu_buffer_destroy(gpu, halves.buffer);
        gpu_buffer_destroy(gpu, unpacked.buffer);
        free(in);
    }
}

/* On a device with panels: two products, with a bias or added to what is there, in one part or in several, and with
 * weights that are kept in panels, at first and again. */
static void panels_multiply_as_tiles_do(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    if (!gpu_get_info(gpu)->panels)
        skip();
    struct random random;
    random_seed(&random, 33);
    const uint32_t columns = 768, tokens = 300, rows[] = {1000, 322};
    const size_t in_count = (size_t)tokens * columns;
    const uint64_t whole = gpu_unpacked_bytes(TENSOR_F16, rows[0] + 256 + rows[1], columns, tokens, true);
    const uint64_t rooms[] = {0, whole, gpu_unpacked_bytes(TENSOR_F16, 512, columns, tokens, true), whole, whole};
    const size_t first_kept = 3;
    float *in = gpu_test_floats(&random, in_count), *bias = gpu_test_floats(&random, rows[0]);
    struct gpu_range input = gpu_test_range(gpu, in, in_count * 4), halves = gpu_test_range(gpu, NULL, in_count * 2),
                     biases = gpu_test_range(gpu, bias, rows[0] * 4), unpacked = gpu_test_range(gpu, NULL, whole);
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        if (types[i] == TENSOR_F32)
            continue;
        float *outputs[2][COUNT_OF(rooms)];
        struct product products[2];
        struct gpu_panels kept[2] = {0};
        for (size_t m = 0; m < 2; m++)
            products[m] = product_create(gpu, &random, types[i], rows[m], columns);
        for (size_t way = 0; way < COUNT_OF(rooms); way++) {
            struct gpu_matmul jobs[2];
            for (size_t m = 0; m < 2; m++) {
                const size_t count = (size_t)rows[m] * tokens;
                float *before = calloc(count, sizeof *before);
                assert_non_null(before);
                for (size_t at = 0; at < count; at++)
                    before[at] = (float)(at % 7);
                jobs[m] = (struct gpu_matmul){.weights = products[m].matrix,
                                              .in_halves = halves,
                                              .out = gpu_test_range(gpu, before, count * 4),
                                              .bias = i % 3 == 1 && m == 0 ? biases : (struct gpu_range){0},
                                              .accumulate = i % 3 == 2,
                                              .unpacked = rooms[way] ? unpacked : (struct gpu_range){0},
                                              .unpacked_bytes = rooms[way],
                                              .tokens = tokens,
                                              .in_stride = columns,
                                              .out_stride = rows[m]};
                const uint64_t bytes = gpu_kept_bytes(gpu, &jobs[m]);
                assert_int_equal(bytes > 0, way > 0);
                if (way == first_kept)
                    assert_ok(gpu_buffer_create(gpu, &kept[m].buffer, bytes, GPU_DEVICE, &test_error));
                assert_int_equal(kept[m].filled, way > first_kept);
                jobs[m].kept = way >= first_kept ? &kept[m] : NULL;
                free(before);
            }
            make_halves_and_multiply(gpu, halves, input, jobs);
            for (size_t m = 0; m < 2; m++)
                outputs[m][way] = gpu_test_take(gpu, jobs[m].out, (size_t)rows[m] * tokens * 4);
        }
        for (size_t m = 0; m < 2; m++) {
            const size_t count = (size_t)rows[m] * tokens;
            for (size_t way = 1; way < COUNT_OF(rooms); way++)
                if (!(gpu_test_error(outputs[m][way], outputs[m][0], count) < 1e-4))
                    fail_msg("%s, room %zu: the error is %g", tensor_type_info(types[i])->name, way,
                             gpu_test_error(outputs[m][way], outputs[m][0], count));
            for (size_t way = 2; way < COUNT_OF(rooms); way++)
                assert_memory_equal(outputs[m][1], outputs[m][way], count * 4);
            gpu_buffer_destroy(gpu, kept[m].buffer);
            for (size_t way = 0; way < COUNT_OF(rooms); way++)
                free(outputs[m][way]);
            product_destroy(gpu, &products[m]);
        }
    }
    struct gpu_range ranges[] = {input, halves, biases, unpacked};
    for (size_t i = 0; i < COUNT_OF(ranges); i++)
        gpu_buffer_destroy(gpu, ranges[i].buffer);
    free(in);
    free(bias);
}

/* ---- experts ----------------------------------------------------------------------------------------------------- */

#define EXPERTS 6u
#define USED 2u
#define ROOMS 5

/* Two products with the same inputs. Slots hold the weights of both. */
struct expert_test {
    uint32_t rows, columns, tokens;
    bool per_choice, some; /* some: two experts have no slot */
    struct gpu_range slots, ids, halves, groups, bias, unpacked;
    uint64_t rooms[ROOMS];
};

static struct expert_test expert_test_create(struct gpu *gpu, struct random *random, bool some)
{
    static const uint32_t all[EXPERTS] = {2, 4, 0, 3, 5, 1}, few[EXPERTS] = {2, GPU_NO_SLOT, 0, 3, GPU_NO_SLOT, 1};
    struct expert_test t = {.rows = some ? 330 : 1024, .columns = 768, .tokens = 700, .per_choice = some, .some = some};
    const uint32_t choices = t.tokens * USED, in_rows = t.per_choice ? choices : t.tokens;
    const size_t in_count = (size_t)in_rows * t.columns;
    uint32_t *ids = malloc(choices * sizeof *ids);
    assert_non_null(ids);
    for (uint32_t i = 0; i < choices; i++) /* the last expert has no token */
        ids[i] = i % USED == 0 ? (uint32_t)(random_next(random) % (EXPERTS - 1)) : (ids[i - 1] + 1) % (EXPERTS - 1);
    float *in = gpu_test_floats(random, in_count), *bias = gpu_test_floats(random, EXPERTS * t.rows);
    struct gpu_range floats = gpu_test_range(gpu, in, in_count * 4);
    t.slots = gpu_test_range(gpu, some ? few : all, sizeof all);
    t.ids = gpu_test_range(gpu, ids, choices * sizeof *ids);
    t.halves = gpu_test_range(gpu, NULL, in_count * 2);
    t.groups = gpu_test_range(gpu, NULL, gpu_expert_group_bytes(EXPERTS, USED, t.tokens));
    t.bias = some ? gpu_test_range(gpu, bias, EXPERTS * t.rows * 4) : (struct gpu_range){0};
    const uint64_t whole = gpu_expert_unpacked_bytes(TENSOR_F16, t.rows, t.columns, EXPERTS, USED, t.tokens);
    const uint64_t for_one = whole - (EXPERTS - 1) * panels_bytes(t.rows, t.columns);
    const uint64_t rooms[ROOMS] = {0, whole, for_one, whole, whole};
    assert_true(whole > 0);
    memcpy(t.rooms, rooms, sizeof rooms);
    t.unpacked = gpu_test_range(gpu, NULL, whole);
    gpu_begin(gpu);
    gpu_halves(gpu, t.halves, floats, in_count);
    gpu_barrier(gpu);
    gpu_expert_group(gpu, t.ids, t.groups, EXPERTS, USED, t.tokens);
    gpu_test_run(gpu);
    gpu_buffer_destroy(gpu, floats.buffer);
    free(ids);
    free(in);
    free(bias);
    return t;
}

static void expert_test_destroy(struct gpu *gpu, struct expert_test *t)
{
    const struct gpu_range ranges[] = {t->slots, t->ids, t->halves, t->groups, t->unpacked};
    for (size_t i = 0; i < COUNT_OF(ranges); i++)
        gpu_buffer_destroy(gpu, ranges[i].buffer);
    if (t->bias.buffer)
        gpu_buffer_destroy(gpu, t->bias.buffer);
}

static void check_experts_from_panels(struct gpu *gpu, const struct expert_test *t, const struct product *pool)
{
    const uint32_t slots = t->some ? EXPERTS - 2 : EXPERTS;
    const uint64_t matrix_bytes = t->rows * pool->matrix.row_bytes;
    const size_t count = (size_t)t->tokens * USED * t->rows;
    const char *name = tensor_type_info(pool->matrix.type)->name;
    float *before = calloc(count, sizeof *before), *outputs[2][ROOMS];
    struct gpu_panels kept[2] = {0};
    const int first_kept = 3;
    assert_non_null(before);
    for (int way = 0; way < ROOMS; way++) {
        struct gpu_expert_matmul jobs[2];
        for (size_t m = 0; m < 2; m++) {
            jobs[m] = (struct gpu_expert_matmul){.weights = {{pool->matrix.data.buffer, m * matrix_bytes},
                                                             pool->matrix.type,
                                                             t->rows,
                                                             t->columns,
                                                             pool->matrix.row_bytes},
                                                 .slot_stride = 2 * matrix_bytes,
                                                 .slots = t->slots,
                                                 .ids = t->ids,
                                                 .in_halves = t->halves,
                                                 .out = gpu_test_range(gpu, before, count * 4),
                                                 .bias = t->bias,
                                                 .groups = t->groups,
                                                 .unpacked = t->rooms[way] ? t->unpacked : (struct gpu_range){0},
                                                 .unpacked_bytes = t->rooms[way],
                                                 .slot_count = slots,
                                                 .experts = EXPERTS,
                                                 .used = USED,
                                                 .tokens = t->tokens,
                                                 .per_choice = t->per_choice};
            const uint64_t bytes = gpu_expert_kept_bytes(gpu, &jobs[m]);
            assert_int_equal(bytes > 0, way > 0);
            if (way == first_kept)
                assert_ok(gpu_buffer_create(gpu, &kept[m].buffer, bytes, GPU_DEVICE, &test_error));
            assert_int_equal(kept[m].filled, way > first_kept);
            jobs[m].kept = way >= first_kept ? &kept[m] : NULL;
        }
        gpu_begin(gpu);
        gpu_expert_matmul(gpu, jobs, 2);
        gpu_test_run(gpu);
        for (size_t m = 0; m < 2; m++)
            outputs[m][way] = gpu_test_take(gpu, jobs[m].out, count * 4);
    }
    for (size_t m = 0; m < 2; m++) {
        for (int way = 1; way < ROOMS; way++)
            if (!(gpu_test_error(outputs[m][way], outputs[m][0], count) < 1e-4))
                fail_msg("%s, room %d: the error is %g", name, way,
                         gpu_test_error(outputs[m][way], outputs[m][0], count));
        for (int way = 2; way < ROOMS; way++)
            assert_memory_equal(outputs[m][1], outputs[m][way], count * 4);
        gpu_buffer_destroy(gpu, kept[m].buffer);
        for (int way = 0; way < ROOMS; way++)
            free(outputs[m][way]);
    }
    free(before);
}

/* Each expert's inputs begin a tile of panels. With up to 32 choices per expert, groups have one tile each on all
 * devices. */
static void gathers_inputs_of_experts(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    const uint32_t tokens = 40, columns = 48, choices = tokens * USED, tile = 128;
    struct random random;
    random_seed(&random, 35);
    for (int per_choice = 0; per_choice < 2; per_choice++) {
        const uint32_t in_rows = per_choice ? choices : tokens, in_count = in_rows * columns;
        uint32_t *ids = malloc(choices * sizeof *ids);
        uint16_t *in = malloc(in_count * sizeof *in);
        assert_true(ids && in);
        for (uint32_t i = 0; i < choices; i++) {
            const uint32_t at = (i / USED + i % USED) % (EXPERTS - 1);
            ids[i] = at + (at >= 2); /* expert 2 has none */
        }
        for (uint32_t i = 0; i < in_count; i++)
            in[i] = (uint16_t)random_next(&random);
        const size_t group_bytes = gpu_expert_group_bytes(EXPERTS, USED, tokens), room = EXPERTS * tile * columns * 2;
        const struct gpu_expert_matmul job = {.weights.columns = columns,
                                              .ids = gpu_test_range(gpu, ids, choices * sizeof *ids),
                                              .in_halves = gpu_test_range(gpu, in, in_count * sizeof *in),
                                              .groups = gpu_test_range(gpu, NULL, group_bytes),
                                              .experts = EXPERTS,
                                              .used = USED,
                                              .tokens = tokens,
                                              .per_choice = per_choice};
        const struct gpu_range out = gpu_test_range(gpu, NULL, room);
        gpu_begin(gpu);
        gpu_expert_group(gpu, job.ids, job.groups, EXPERTS, USED, tokens);
        gpu_barrier(gpu);
        halves_gather_panels(gpu, out, &job, EXPERTS * tile);
        gpu_test_run(gpu);
        uint32_t *groups = gpu_test_take(gpu, job.groups, group_bytes), seen = 0;
        uint16_t *got = gpu_test_take(gpu, out, room);
        for (uint32_t e = 0, t = 0; e < EXPERTS; e++) {
            const uint32_t first = groups[4 + e], end = groups[4 + e + 1];
            assert_true(end - first <= 32);
            for (uint32_t i = first; i < end; i++) {
                const uint32_t choice = groups[4 + EXPERTS + 1 + i], row = t * tile + i - first;
                assert_int_equal(ids[choice], e);
                for (uint32_t c = 0; c < columns; c++)
                    assert_int_equal(got[place_in_panels(row, c, columns)],
                                     in[(per_choice ? choice : choice / USED) * columns + c]);
                seen++;
            }
            t += end > first;
        }
        assert_int_equal(seen, choices);
        gpu_buffer_destroy(gpu, job.ids.buffer);
        gpu_buffer_destroy(gpu, job.in_halves.buffer);
        free(groups);
        free(got);
        free(ids);
        free(in);
    }
}

/* On a device with panels: experts, of which all or some are there, in one part or in several, and with weights that
 * are kept in panels, at first and again. */
static void experts_from_panels_as_from_tiles(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    if (!gpu_get_info(gpu)->panels)
        skip();
    struct random random;
    random_seed(&random, 34);
    for (int some = 0; some < 2; some++) {
        struct expert_test t = expert_test_create(gpu, &random, some);
        for (size_t i = 0; i < COUNT_OF(types); i++) {
            if (types[i] == TENSOR_F32)
                continue;
            struct product pool = product_create(gpu, &random, types[i], 2 * EXPERTS * t.rows, t.columns);
            check_experts_from_panels(gpu, &t, &pool);
            product_destroy(gpu, &pool);
        }
        expert_test_destroy(gpu, &t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(makes_halves),
        cmocka_unit_test(unpacks_weights),
        cmocka_unit_test(unpacks_weights_into_panels),
        cmocka_unit_test(halves_change_no_bit),
        cmocka_unit_test(panels_multiply_as_tiles_do),
        cmocka_unit_test(gathers_inputs_of_experts),
        cmocka_unit_test(experts_from_panels_as_from_tiles),
    };
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
