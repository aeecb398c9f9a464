/* libFuzzer target: a LoRA adapter, opened with a model and applied to a few tokens. */
#include "fuzz.h"

#include "engine/engine.h"

#define TOKENS 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hypura_error error = {0};
    struct engine *engine = NULL;
    struct engine_options options;
    struct engine_adapter adapter = {as_file(data, size), 0.5f};
    engine_default_options(&options);
    options.context = 16;
    options.threads = 1;
    options.gpu = "none";
    options.remember_usage = false;
    options.adapters = &adapter;
    options.adapter_count = 1;
    hypura_status status = engine_open(&engine, FUZZ_MODEL, &options, &error);
    must_explain(status, &error);
    if (status)
        return 0;
    int32_t tokens[TOKENS] = {1, 2, 3, 5};
    uint32_t positions[TOKENS] = {0, 1, 2, 3};
    struct engine_batch batch = {.count = TOKENS, .tokens = tokens, .positions = positions};
    status = engine_forward(engine, &batch, &error);
    must_explain(status, &error);
    engine_close(engine);
    return 0;
}
