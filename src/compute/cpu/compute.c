/* struct compute: threads, their scratch memory, and the kernels that they call. The caller owns it. */
#include "compute/cpu/attention.h"
#include "compute/cpu/gemm_floats.h"
#include "compute/cpu/index.h"

static const struct compute_limits no_limits = {.tokens = GEMM_TASK_TOKENS,
                                                .queries = SIZE_MAX,
                                                .key_size = ATTENTION_MAX_SIZE,
                                                .value_size = ATTENTION_MAX_SIZE,
                                                .chooses = true,
                                                .index_heads = 64,
                                                .index_size = 256};

size_t gemm_floats_scratch_bytes(size_t tokens)
{
    tokens = MIN(tokens, FLOATS_BLOCK_TOKENS);
    return (FLOATS_BLOCK_ROWS * tokens * FLOATS_LANES + (tokens + FLOATS_TILE_ROWS) * FLOATS_STEP) * sizeof(float);
}

size_t gemm_scratch_bytes(size_t tokens)
{
    tokens = MIN(tokens, GEMM_TASK_TOKENS);
    return MAX(gemm_panels_scratch_bytes(tokens), gemm_floats_scratch_bytes(tokens));
}

static size_t worker_scratch_bytes(const struct compute_limits *limits)
{
    size_t products = MAX(gemm_scratch_bytes(limits->tokens), index_scratch_bytes(limits));
    return (size_t)align_up(MAX(products, attention_scratch_bytes(limits)), 64);
}

hypura_status compute_create(struct compute **out, size_t threads, enum instruction_set set, hypura_error *error)
{
    return compute_create_limited(out, threads, set, NULL, error);
}

hypura_status compute_create_limited(struct compute **out, size_t threads, enum instruction_set set,
                                     const struct compute_limits *limits, hypura_error *error)
{
    limits = limits ? limits : &no_limits;
    if (!compute_has_instructions(set))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "this machine has no %s instructions",
                         compute_instructions_name(set));
    struct compute *compute;
    hypura_status status = ALLOCATE(&compute, 1, "compute", error);
    if (status)
        return status;
    status = thread_pool_create(&compute->pool, threads, error);
    if (!status) {
        void *scratch;
        compute->scratch_bytes = worker_scratch_bytes(limits);
        status = memory_map(&scratch, threads * compute->scratch_bytes, false, "scratch of the kernels", error);
        compute->scratch = status ? NULL : scratch;
    }
    if (!status)
        status = ALLOCATE(&compute->asked, threads, "threads", error);
    if (!status)
        status = expectation_create(compute, error);
    if (status) {
        memory_free(compute->asked);
        memory_unmap(compute->scratch, threads * compute->scratch_bytes);
        thread_pool_destroy(compute->pool);
        memory_free(compute);
        return status;
    }
    compute->threads = threads;
    compute->task_tokens = MIN(MAX(limits->tokens, (size_t)1), GEMM_TASK_TOKENS);
    compute->instructions = set;
    compute->kernels = kernel_table_get(set);
    *out = compute;
    return HYPURA_OK;
}

void compute_destroy(struct compute *compute)
{
    if (!compute)
        return;
    thread_pool_destroy(compute->pool);
    memory_unmap(compute->scratch, compute->threads * compute->scratch_bytes);
    memory_free(compute->asked);
    memory_free(compute->node_jobs);
    memory_free(compute->expectation);
    memory_free(compute);
}

struct thread_pool *compute_pool(struct compute *compute)
{
    return compute->pool;
}

enum instruction_set compute_instructions(const struct compute *compute)
{
    return compute->instructions;
}

uint64_t compute_scratch_bytes(size_t threads, const struct compute_limits *limits)
{
    return threads * worker_scratch_bytes(limits ? limits : &no_limits);
}
