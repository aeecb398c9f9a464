/* libFuzzer target: the beginning of a GGUF file (header, metadata, descriptions of tensors), followed by a megabyte of
 * small numbers. The target opens it as a model, plans, loads, and runs a few tokens. */
#include "fuzz.h"

#include "engine/engine.h"

#define FILE_BYTES ((size_t)1 << 20)
#define HEAD_BYTES ((size_t)1 << 16)
#define TOKENS 6

static uint8_t numbers[FILE_BYTES];

/* Makes numbers that are finite as halves and as floats. */
static void make_numbers(void)
{
    struct random random;
    random_seed(&random, 1);
    for (size_t i = 0; i < FILE_BYTES; i += 2) {
        uint64_t bits = random_next(&random);
        numbers[i] = (uint8_t)(bits | 1);
        numbers[i + 1] = (uint8_t)((bits >> 8 & 0x8b) | 0x30);
    }
}

static void run(struct engine *engine)
{
    hypura_error error = {0};
    uint32_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    int32_t tokens[TOKENS];
    uint32_t positions[TOKENS];
    for (uint32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)((i * 7919) % vocabulary);
        positions[i] = i;
    }
    for (uint32_t first = 0, count = TOKENS - 1; first < TOKENS; first += count, count = 1) {
        struct engine_batch batch = {.count = count, .tokens = tokens + first, .positions = positions + first};
        hypura_status status = engine_forward(engine, &batch, &error);
        must_explain(status, &error);
        if (status != HYPURA_OK)
            return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hypura_error error = {0};
    struct model *model;
    struct engine *engine;
    if (size > HEAD_BYTES)
        return 0;
    const char *path;
    int file = memory_file(&path);
    if (!numbers[0])
        make_numbers();
    must(pwrite(file, numbers, FILE_BYTES, 0) == (ssize_t)FILE_BYTES && pwrite(file, data, size, 0) == (ssize_t)size);
    hypura_status status = model_open(&model, path, &error);
    must_explain(status, &error);
    if (status == HYPURA_OK) {
        for (unit_number u = 0; u < model_unit_count(model); u++)
            for (uint32_t s = 0; s < model_unit(model, u)->slice_count; s++) {
                const struct unit_slice *slice = &model_unit(model, u)->slices[s];
                must(slice->offset <= FILE_BYTES && slice->bytes <= FILE_BYTES - slice->offset);
            }
        model_close(model);
        struct engine_options options;
        engine_default_options(&options);
        options.budget = (uint64_t)128 << 20;
        options.context = 16;
        options.chunk = 8;
        options.threads = 1;
        options.gpu = "none";
        status = engine_open(&engine, path, &options, &error);
        must_explain(status, &error);
        if (status == HYPURA_OK) {
            if (engine_plan(engine)->positions >= TOKENS)
                run(engine);
            engine_close(engine);
        }
    }
    return 0;
}
