/* The embedded model, opened once for all tests of a file, and a machine to plan for. */
#ifndef HYPURA_TEST_PLAN_EMBEDDED_H
#define HYPURA_TEST_PLAN_EMBEDDED_H

#include "test.h"

#include "plan/plan_private.h"

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)

static struct model *model;
static struct steps *steps;

static int open_model(void **state)
{
    (void)state;
    char path[4096];
    const char *folder = getenv("HYPURA_MODELS");
    snprintf(path, sizeof path, "%s/manpage-moe-24m-Q4_K_M.gguf", folder ? folder : "models");
    if (model_open(&model, path, &test_error) || steps_make(&steps, model, &test_error)) {
        print_error("%s\n", test_error.message);
        return -1;
    }
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    steps_free(steps);
    model_close(model);
    return 0;
}

static struct hardware machine(void)
{
    return (struct hardware){
        .memory_total = 4096 * MIB,
        .memory_available = 2048 * MIB,
        .cgroup_limit = UINT64_MAX,
        .memory_bytes_per_second = 40e9,
        .compute_bytes_per_second = 20e9,
        .multiply_adds_per_second = 50e9,
        .storage = {.bytes_per_second = 1e9, .latency_seconds = 1e-4, .block_bytes = MIB, .depth = 8}};
}

#endif
