/* Weights in panels that stay on the device.
 *
 * Unpacking takes a tenth of a long batch's time, and each batch or part of one unpacks all weights. Half of what is
 * left of the device's budget once a model is open keeps unpacked matrices. A thread takes the memory, since a driver
 * needs some 15 ms per GB; until then, a matrix is unpacked as usual. */
#include "engine/gpu/pass.h"

#include <pthread.h>
#include <stdatomic.h>

enum state { NONE, ASKED, THERE };

struct kept {
    struct gpu_panels panels;
    uint64_t bytes;
    _Atomic enum state state; /* the thread turns ASKED into THERE, unless the device refuses the memory */
};

struct keeper {
    struct gpu *gpu;
    struct kept *kept; /* [unit_count], then [layers][PASS_EXPERT_PRODUCTS] */
    size_t unit_count, kept_count;
    uint64_t left; /* bytes */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t *asked; /* [kept_count] */
    size_t count, done;
    bool ends;
};

static void take_memory(struct keeper *keeper, struct kept *kept)
{
    if (gpu_buffer_create(keeper->gpu, &kept->panels.buffer, kept->bytes, GPU_DEVICE, NULL))
        kept->panels.buffer = NULL;
    else
        atomic_store(&kept->state, THERE);
}

static void *run(void *context)
{
    struct keeper *keeper = context;
    pthread_mutex_lock(&keeper->lock);
    while (!keeper->ends) {
        if (keeper->done == keeper->count) {
            pthread_cond_wait(&keeper->changed, &keeper->lock);
            continue;
        }
        struct kept *next = &keeper->kept[keeper->asked[keeper->done++]];
        pthread_mutex_unlock(&keeper->lock);
        take_memory(keeper, next);
        pthread_mutex_lock(&keeper->lock);
    }
    pthread_mutex_unlock(&keeper->lock);
    return NULL;
}

static void free_tables(struct keeper *keeper)
{
    memory_free(keeper->kept);
    memory_free(keeper->asked);
    memory_free(keeper);
}

static void free_keeper(struct keeper *keeper)
{
    pthread_mutex_destroy(&keeper->lock);
    pthread_cond_destroy(&keeper->changed);
    free_tables(keeper);
}

hypura_status pass_open_kept(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const uint64_t bytes = plan_gpu_keep_bytes(pass->plan);
    const size_t units = model_unit_count(batch->open->model);
    const size_t count = units + (size_t)pass->plan->layer_count * PASS_EXPERT_PRODUCTS;
    struct keeper *keeper;
    if (!gpu_get_info(pass->gpu)->panels || bytes == 0)
        return HYPURA_OK;
    TRY(ALLOCATE(&keeper, 1, "table of unpacked units", error));
    keeper->gpu = pass->gpu;
    keeper->left = bytes;
    keeper->unit_count = units;
    keeper->kept_count = count;
    hypura_status status = ALLOCATE(&keeper->kept, count, "table of unpacked units", error);
    if (!status)
        status = ALLOCATE(&keeper->asked, count, "table of unpacked units", error);
    if (status) {
        free_tables(keeper);
        return status;
    }
    pthread_mutex_init(&keeper->lock, NULL);
    pthread_cond_init(&keeper->changed, NULL);
    if (pthread_create(&keeper->thread, NULL, run, keeper))
        free_keeper(keeper); /* without a thread, nothing is kept */
    else
        pass->keeper = keeper;
    return HYPURA_OK;
}

static void ask(struct keeper *keeper, size_t number, uint64_t bytes)
{
    struct kept *kept = &keeper->kept[number];
    if (bytes == 0 || bytes > keeper->left)
        return;
    keeper->left -= bytes;
    kept->bytes = bytes;
    atomic_store(&kept->state, ASKED);
    pthread_mutex_lock(&keeper->lock);
    keeper->asked[keeper->count++] = number;
    pthread_cond_signal(&keeper->changed);
    pthread_mutex_unlock(&keeper->lock);
}

static struct gpu_panels *find(struct keeper *keeper, size_t number, uint64_t bytes)
{
    struct kept *kept = &keeper->kept[number];
    const enum state state = atomic_load(&kept->state);
    if (state == NONE)
        ask(keeper, number, bytes);
    return state == THERE ? &kept->panels : NULL;
}

struct gpu_panels *pass_keep(const struct gpu_pass *pass, unit_number unit, const struct gpu_matmul *job)
{
    return pass->keeper ? find(pass->keeper, unit, gpu_kept_bytes(pass->gpu, job)) : NULL;
}

struct gpu_panels *pass_keep_experts(const struct gpu_pass *pass, uint32_t layer, uint32_t product,
                                     const struct gpu_expert_matmul *job)
{
    struct keeper *keeper = pass->keeper;
    return keeper ? find(keeper, keeper->unit_count + (size_t)layer * PASS_EXPERT_PRODUCTS + product,
                         gpu_expert_kept_bytes(pass->gpu, job))
                  : NULL;
}

void pass_close_kept(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    struct keeper *keeper = pass->keeper;
    if (!keeper)
        return;
    pthread_mutex_lock(&keeper->lock);
    keeper->ends = true;
    pthread_cond_signal(&keeper->changed);
    pthread_mutex_unlock(&keeper->lock);
    pthread_join(keeper->thread, NULL);
    for (size_t i = 0; i < keeper->kept_count; i++)
        if (keeper->kept[i].panels.buffer)
            gpu_buffer_destroy(pass->gpu, keeper->kept[i].panels.buffer);
    free_keeper(keeper);
    pass->keeper = NULL;
}
