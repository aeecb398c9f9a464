/* Tables of units without a model's file, to test planning. */
#ifndef FAKE_MODEL_H
#define FAKE_MODEL_H

#include "plan/plan_private.h"

#include <string.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

#define FAKE_UNITS 8192
#define FAKE_PIECES (4 * FAKE_UNITS)

struct fake {
    struct plan_table table;
    struct plan_unit units[FAKE_UNITS];
};

static inline struct plan_traits fake_traits(enum tensor_role role, uint64_t footprint)
{
    switch (role) {
    case ROLE_ATTENTION_NORM:
    case ROLE_FFN_NORM:
    case ROLE_OUTPUT_NORM:
        return plan_traits_of(USE_VECTOR, PART_ATTENTION, footprint);
    case ROLE_ROUTER:
        return plan_traits_of(USE_ROUTER, PART_FEED_FORWARD, footprint);
    case ROLE_TOKEN_EMBEDDING:
    case ROLE_OUTPUT:
        return plan_traits_of(USE_MATRIX, PART_OUTPUT, footprint);
    case ROLE_FFN_GATE:
    case ROLE_FFN_UP:
    case ROLE_FFN_DOWN:
        return plan_traits_of(USE_MATRIX, PART_FEED_FORWARD, footprint);
    default:
        return plan_traits_of(USE_MATRIX, PART_ATTENTION, footprint);
    }
}

static inline void fake_add(struct fake *fake, enum tensor_role role, int32_t layer, uint64_t footprint)
{
    struct plan_unit *unit = &fake->units[fake->table.count++];
    *unit = (struct plan_unit){.footprint = footprint,
                               .slices = 1,
                               .elements = footprint * 16 / 9, /* Q4_K */
                               .compute_seconds = (double)footprint / 20e9,
                               .expert = -1,
                               .priority = fake_traits(role, footprint).priority,
                               .layer = layer};
}

/* Cuts dense tensors into pieces of "usual" bytes; tensors of one footprint get pieces of "other" bytes. The last piece
 * is what remains. Call it after the last change of a footprint. */
static inline void fake_cut_unlike(struct fake *fake, uint64_t usual, uint64_t footprint, uint64_t other)
{
    fake->table.piece_count = 0;
    for (uint32_t i = 0; i < fake->table.count; i++) {
        struct plan_unit *unit = &fake->units[i];
        uint64_t piece = unit->footprint == footprint ? other : usual;
        bool whole = unit->priority >= PRIORITY_EXPERT || unit->footprint <= piece;
        unit->piece = whole ? unit->footprint : piece;
        unit->cut = (struct plan_cut){
            .first = fake->table.piece_count,
            .count = whole ? 1 : (uint32_t)((unit->footprint + piece - 1) / piece),
            .bytes = unit->piece,
        };
        unit->last_piece = unit->footprint - (unit->cut.count - 1) * unit->piece;
        fake->table.piece_count += unit->cut.count;
    }
}

static inline void fake_cut(struct fake *fake, uint64_t piece)
{
    fake_cut_unlike(fake, piece, 0, 0);
}

/* The shape of a transformer. Sizes are in bytes; 0: no such tensor. */
struct fake_shape {
    uint32_t layers;
    uint64_t norm, q, k, output_projection, gate, down;
    uint32_t experts, experts_used;
    uint64_t router, expert;
    uint64_t embedding, output; /* output 0: tied */
};

static inline void fake_build(struct fake *fake, const struct fake_shape *shape)
{
    memset(fake, 0, sizeof *fake);
    fake->table.units = fake->units;
    fake->table.context = 131072;
    fake->table.layers = shape->layers;
    fake->table.experts = shape->experts;
    fake->table.experts_used = shape->experts_used;
    fake->table.embedding_unit = 0;
    fake->table.embedding_row_bytes = 8192;
    fake->table.tied_output = shape->output == 0;
    fake_add(fake, ROLE_TOKEN_EMBEDDING, -1, shape->embedding);
    fake->units[0].priority = shape->output ? PRIORITY_ROWS : PRIORITY_OUTPUT;
    for (int32_t layer = 0; layer < (int32_t)shape->layers; layer++) {
        fake_add(fake, ROLE_ATTENTION_NORM, layer, shape->norm);
        fake_add(fake, ROLE_ATTENTION_Q, layer, shape->q);
        fake_add(fake, ROLE_ATTENTION_K, layer, shape->k);
        fake_add(fake, ROLE_ATTENTION_V, layer, shape->k);
        fake_add(fake, ROLE_ATTENTION_OUTPUT, layer, shape->output_projection);
        fake_add(fake, ROLE_FFN_NORM, layer, shape->norm);
        if (shape->gate) {
            fake_add(fake, ROLE_FFN_GATE, layer, shape->gate);
            fake_add(fake, ROLE_FFN_UP, layer, shape->gate);
            fake_add(fake, ROLE_FFN_DOWN, layer, shape->down);
        }
        if (shape->experts)
            fake_add(fake, ROLE_ROUTER, layer, shape->router);
    }
    fake_add(fake, ROLE_OUTPUT_NORM, -1, shape->norm);
    if (shape->output)
        fake_add(fake, ROLE_OUTPUT, -1, shape->output);
    for (int32_t layer = 0; layer < (int32_t)shape->layers; layer++) {
        for (uint32_t expert = 0; expert < shape->experts; expert++) {
            fake_add(fake, ROLE_EXPERT_DOWN, layer, shape->expert);
            fake->units[fake->table.count - 1].priority = PRIORITY_EXPERT;
            fake->units[fake->table.count - 1].expert = (int32_t)expert;
            fake->units[fake->table.count - 1].slices = 3;
        }
    }
    fake_cut(fake, UINT64_MAX);
}

static const struct fake_shape fake_dense = {.layers = 80,
                                             .norm = 36 * KIB,
                                             .q = 36 * MIB,
                                             .k = 4 * MIB + 512 * KIB,
                                             .output_projection = 36 * MIB,
                                             .gate = 126 * MIB,
                                             .down = 184 * MIB,
                                             .embedding = 564 * MIB,
                                             .output = 822 * MIB};

static const struct fake_shape fake_experts = {.layers = 48,
                                               .norm = 12 * KIB,
                                               .q = 5 * MIB,
                                               .k = 640 * KIB,
                                               .output_projection = 5 * MIB,
                                               .experts = 128,
                                               .experts_used = 8,
                                               .router = 1 * MIB,
                                               .expert = 2700 * KIB,
                                               .embedding = 170 * MIB,
                                               .output = 250 * MIB};

/* As small as the embedded model. */
static const struct fake_shape fake_tiny = {.layers = 8,
                                            .norm = 4 * KIB,
                                            .q = 84 * KIB,
                                            .k = 28 * KIB,
                                            .output_projection = 84 * KIB,
                                            .experts = 16,
                                            .experts_used = 2,
                                            .router = 24 * KIB,
                                            .expert = 92 * KIB,
                                            .embedding = 2 * MIB};

static inline uint64_t fake_kv(const void *context, uint32_t positions, uint32_t sequences, enum tensor_type type)
{
    (void)type;
    return (uint64_t)positions * sequences * *(const uint32_t *)context;
}

static inline uint64_t fake_scratch(const void *context, uint32_t chunk, uint32_t positions)
{
    (void)context;
    return (uint64_t)chunk * 100 * KIB + positions * 4;
}

static inline struct hardware fake_hardware(void)
{
    return (struct hardware){
        .memory_total = 256 * GIB,
        .memory_available = 200 * GIB,
        .cgroup_limit = UINT64_MAX,
        .memory_bytes_per_second = 40e9,
        .compute_bytes_per_second = 20e9,
        .multiply_adds_per_second = 200e9,
        .storage = {.bytes_per_second = 2e9, .latency_seconds = 1e-4, .block_bytes = MIB, .depth = 16}};
}

#endif
