/* The cost of attention over chosen positions, per token: the search for the positions, attention over those chosen,
 * and attention over all of them. It measures one layer with the geometry of DeepSeek V3.2 and GLM 5 (64 heads on a
 * latent row of 512 + 64, an indexer of 32 heads of 128, 2048 positions chosen). Each figure is the fastest of several
 * rounds. Rounds take the caches of several layers in turn, so none finds its data in the processor's caches. */
#include "compute/compute.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

enum { HEADS = 64, RANK = 512, ROW = 576, INDEX_HEADS = 32, INDEX_SIZE = 128, MOST = 2048, LAYERS = 4, ROUNDS = 15 };

#define LONGEST ((size_t)131072)

static const size_t contexts[] = {1024, 2048, 4096, 8192, 16384, 32768, 65536, LONGEST};

struct world {
    struct compute *compute;
    uint8_t *rows, *keys; /* [LAYERS][LONGEST] */
    float *query, *output, *index_query, *weights, *scores;
    uint32_t *words, position;
    size_t row_bytes, key_bytes;
};

static void search(struct world *w, size_t layer)
{
    compute_index(w->compute, &(struct index_search){.query = w->index_query,
                                                     .weights = w->weights,
                                                     .positions = &w->position,
                                                     .rows = 1,
                                                     .keys = w->keys + layer * LONGEST * w->key_bytes,
                                                     .key_bytes = w->key_bytes,
                                                     .type = TENSOR_F16,
                                                     .heads = INDEX_HEADS,
                                                     .size = INDEX_SIZE,
                                                     .every = 1,
                                                     .block = 1,
                                                     .most = MOST,
                                                     .words = w->words,
                                                     .stride = MOST + 1,
                                                     .scores = w->scores,
                                                     .score_floats = LONGEST});
}

static void attend(struct world *w, size_t layer, bool all)
{
    struct attention_choice choice = {.words = w->words, .stride = MOST + 1, .sets = 1, .most = MOST, .block = 1};
    struct attention_sequence sequence = {.rows = 1, .capacity = LONGEST};
    sequence.keys = sequence.values = w->rows + layer * LONGEST * w->row_bytes;
    compute_attention(w->compute, &(struct attention){.query = w->query,
                                                      .output = w->output,
                                                      .positions = &w->position,
                                                      .heads = HEADS,
                                                      .kv_heads = 1,
                                                      .key_size = ROW,
                                                      .value_size = RANK,
                                                      .key_type = TENSOR_F16,
                                                      .value_type = TENSOR_F16,
                                                      .key_position_bytes = w->row_bytes,
                                                      .key_head_bytes = LONGEST * w->row_bytes,
                                                      .value_position_bytes = w->row_bytes,
                                                      .value_head_bytes = LONGEST * w->row_bytes,
                                                      .scale = 0.07f,
                                                      .choice = all ? NULL : &choice,
                                                      .sequences = &sequence,
                                                      .sequence_count = 1});
}

/* Milliseconds of the search, of attention over the chosen positions, and of attention over all positions. */
static void measure(struct world *w, double out[3])
{
    double seconds[3][ROUNDS];
    for (size_t round = 0; round < ROUNDS; round++) {
        uint64_t start = clock_nanoseconds();
        search(w, round % LAYERS);
        seconds[0][round] = clock_seconds_since(start);
        start = clock_nanoseconds();
        attend(w, round % LAYERS, false);
        seconds[1][round] = clock_seconds_since(start);
        start = clock_nanoseconds();
        attend(w, round % LAYERS, true);
        seconds[2][round] = clock_seconds_since(start);
    }
    for (size_t i = 0; i < 3; i++) {
        out[i] = seconds[i][0];
        for (size_t round = 1; round < ROUNDS; round++)
            out[i] = MIN(out[i], seconds[i][round]);
        out[i] *= 1e3;
    }
}

static void fill(uint8_t *out, size_t row_bytes, size_t size)
{
    static float row[ROW];
    struct random random;
    random_seed(&random, size);
    for (size_t r = 0; r < LAYERS * LONGEST; r++) {
        for (size_t i = 0; i < size; i++)
            row[i] = (float)random_uniform(&random) - 0.5f;
        attention_store(TENSOR_F16, row, 1, size, size, out + r * row_bytes, row_bytes);
    }
}

static void print(const struct world *w, size_t threads, size_t context, const double ms[3], bool json)
{
    if (!json) {
        printf("%9zu %12.2f %16.2f %9.2f %16.2f\n", context, ms[0], ms[1], ms[0] + ms[1], ms[2]);
    } else {
        printf("%s\n {\"positions\": %zu, \"threads\": %zu, \"instructions\": \"%s\", \"chosen\": %d, \"search_ms\": "
               "%.4g, "
               "\"over_choice_ms\": %.4g, \"over_all_ms\": %.4g}",
               context == contexts[0] ? "[" : ",", context, threads,
               compute_instructions_name(compute_instructions(w->compute)), MOST, ms[0], ms[1], ms[2]);
    }
    fflush(stdout);
}

static hypura_status run(size_t threads, bool json, hypura_error *error)
{
    struct world w = {.row_bytes = attention_row_bytes(TENSOR_F16, ROW),
                      .key_bytes = attention_row_bytes(TENSOR_F16, INDEX_SIZE)};
    hypura_status status = compute_create(&w.compute, threads, compute_best_instructions(), error);
    if (status || (status = ALLOCATE(&w.rows, LAYERS * LONGEST * w.row_bytes, "latent rows", error)) ||
        (status = ALLOCATE(&w.keys, LAYERS * LONGEST * w.key_bytes, "index keys", error)) ||
        (status = ALLOCATE(&w.query, HEADS * ROW, "queries", error)) ||
        (status = ALLOCATE(&w.output, HEADS * RANK, "outputs", error)) ||
        (status = ALLOCATE(&w.index_query, INDEX_HEADS * INDEX_SIZE, "index queries", error)) ||
        (status = ALLOCATE(&w.weights, INDEX_HEADS, "weights", error)) ||
        (status = ALLOCATE(&w.scores, LONGEST, "scores", error)) ||
        (status = ALLOCATE(&w.words, MOST + 1, "chosen positions", error)))
        goto done;
    fill(w.rows, w.row_bytes, ROW);
    fill(w.keys, w.key_bytes, INDEX_SIZE);
    for (size_t i = 0; i < HEADS * ROW; i++)
        w.query[i] = (float)(i % 97) * 0.01f - 0.5f;
    for (size_t i = 0; i < INDEX_HEADS * INDEX_SIZE; i++)
        w.index_query[i] = (float)(i % 89) * 0.01f - 0.4f;
    for (size_t i = 0; i < INDEX_HEADS; i++)
        w.weights[i] = (float)(i % 7) * 0.1f - 0.2f;
    if (!json) {
        printf("%zu threads, %s, one token, one layer, F16 cache, %d chosen\n", threads,
               compute_instructions_name(compute_instructions(w.compute)), MOST);
        printf("%9s %12s %16s %9s %16s\n", "positions", "search ms", "over choice ms", "both ms", "over all ms");
    }
    for (size_t i = 0; i < COUNT_OF(contexts); i++) {
        double ms[3];
        w.position = (uint32_t)contexts[i] - 1;
        measure(&w, ms);
        print(&w, threads, contexts[i], ms, json);
    }
    if (json)
        puts("\n]");
done:
    if (w.compute)
        compute_destroy(w.compute);
    void *all[] = {w.rows, w.keys, w.query, w.output, w.index_query, w.weights, w.scores, w.words};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        memory_free(all[i]);
    return status;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {{"threads", required_argument, NULL, 't'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    bool json = false;
    size_t threads = thread_usable_cores();
    hypura_error error;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == 'j') {
            json = true;
            continue;
        }
        if (c != 't') {
            fputs("Usage: chosen [--threads N] [--json]\nMeasures attention over chosen positions and the search for "
                  "them.\n",
                  c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
        threads = MAX(strtoul(optarg, NULL, 10), 1ul);
    }
    if (run(threads, json, &error)) {
        fprintf(stderr, "chosen: %s\n", error.message);
        return 1;
    }
    return 0;
}
