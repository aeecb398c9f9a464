/* Replaces the other files of this folder in a build without a GPU. */
#include "engine/gpu/pass.h"

#include <string.h>

hypura_status gpu_pass_open_devices(struct devices *out, const struct hardware *hardware,
                                    const struct engine_options *options, hypura_error *error)
{
    struct hardware_choice choice;
    char why[512];
    *out = (struct devices){0};
    if (hardware->elsewhere)
        return HYPURA_OK;
    TRY(hardware_choose_gpus(options->gpu, &choice, why, sizeof why, error));
    if (options->gpu && strcmp(options->gpu, "none") != 0)
        log_write(LOG_WARNING, "computing on the CPU: %s", why);
    return HYPURA_OK;
}

void gpu_pass_close_devices(struct devices *devices)
{
    (void)devices;
}

void gpu_pass_keep_budgets(struct engine_options *options, const struct devices *devices,
                           const struct hardware *hardware)
{
    (void)options, (void)devices, (void)hardware;
}

hypura_status gpu_pass_plan(struct plan_gpu **out, struct geometry *geometry, const struct devices *devices,
                            const struct hardware *hardware, const struct engine_options *options, uint32_t longest,
                            hypura_error *error)
{
    (void)out, (void)geometry, (void)devices, (void)hardware, (void)options, (void)longest, (void)error;
    return HYPURA_OK;
}

hypura_status gpu_pass_open(struct batch *batch, hypura_error *error)
{
    (void)batch;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this hypura was built without a GPU tier");
}

bool gpu_pass_failed(const struct batch *batch, uint32_t *number)
{
    (void)batch, (void)number;
    return false;
}

bool gpu_pass_pipelines(const struct batch *batch, bool *embeds)
{
    (void)batch;
    return *embeds = false;
}

hypura_status gpu_pass_pipeline(struct batch *batch, hypura_error *error)
{
    (void)batch;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this hypura was built without a GPU tier");
}

void gpu_pass_close(struct batch *batch)
{
    (void)batch;
}

uint32_t gpu_pass_statistics(const struct batch *batch, struct engine_device *out)
{
    (void)batch, (void)out;
    return 0;
}

bool gpu_pass_has(const struct batch *batch, uint32_t layer)
{
    (void)batch, (void)layer;
    return false;
}

bool gpu_pass_can_narrow(const struct batch *batch, uint32_t layer)
{
    (void)batch, (void)layer;
    return false;
}

hypura_status gpu_pass_experts(struct batch *batch, const struct step *experts, uint64_t *there, hypura_error *error)
{
    (void)batch, (void)experts, (void)there;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this hypura was built without a GPU tier");
}

hypura_status gpu_pass_end(struct batch *batch, hypura_error *error)
{
    (void)batch, (void)error;
    return HYPURA_OK;
}

void gpu_pass_begin(struct batch *batch)
{
    (void)batch;
}

void gpu_pass_abandon(struct batch *batch)
{
    (void)batch;
}

hypura_status gpu_pass_embed(struct batch *batch, const int32_t *tokens, bool *done, hypura_error *error)
{
    (void)batch, (void)tokens, (void)error;
    *done = false;
    return HYPURA_OK;
}

hypura_status gpu_pass_layer(struct batch *batch, uint32_t layer, hypura_error *error)
{
    (void)batch, (void)layer;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this hypura was built without a GPU tier");
}

hypura_status gpu_pass_to_host(struct batch *batch, hypura_error *error)
{
    (void)batch, (void)error;
    return HYPURA_OK;
}

hypura_status gpu_pass_output(struct batch *batch, const struct engine_batch *asked, bool *done, hypura_error *error)
{
    (void)batch, (void)asked, (void)error;
    *done = false;
    return HYPURA_OK;
}

hypura_status gpu_pass_predict(struct batch *batch, const struct step_output *output, const float *row, float *logits,
                               bool *done, hypura_error *error)
{
    (void)batch, (void)output, (void)row, (void)logits, (void)error;
    *done = false;
    return HYPURA_OK;
}

const float *gpu_pass_logits(const struct batch *batch)
{
    (void)batch;
    return NULL;
}

const float *gpu_pass_hidden(const struct batch *batch)
{
    (void)batch;
    return NULL;
}

const float *gpu_pass_host_vector(const struct batch *batch, unit_number unit)
{
    (void)batch, (void)unit;
    return NULL;
}

hypura_status gpu_pass_again(struct batch *batch, uint32_t layer, hypura_error *error)
{
    (void)batch, (void)layer;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this hypura was built without a GPU tier");
}

hypura_status gpu_pass_end_again(struct batch *batch, hypura_error *error)
{
    (void)batch, (void)error;
    return HYPURA_OK;
}

hypura_status gpu_pass_read_cache(struct batch *batch, uint32_t layer, uint64_t offset, uint64_t bytes, uint8_t *out,
                                  hypura_error *error)
{
    (void)batch, (void)layer, (void)offset, (void)bytes, (void)out;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this hypura was built without a GPU tier");
}

hypura_status gpu_pass_write_cache(struct batch *batch, uint32_t layer, uint64_t offset, uint64_t bytes,
                                   const uint8_t *in, hypura_error *error)
{
    (void)batch, (void)layer, (void)offset, (void)bytes, (void)in;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "this hypura was built without a GPU tier");
}

void gpu_pass_copy_cache(struct batch *batch, uint32_t layer, uint64_t from, uint64_t to, uint64_t bytes)
{
    (void)batch, (void)layer, (void)from, (void)to, (void)bytes;
}

hypura_status gpu_pass_place_blocks(struct batch *batch, hypura_error *error)
{
    (void)batch, (void)error;
    return HYPURA_OK;
}

hypura_status gpu_pass_settle_caches(struct batch *batch, hypura_error *error)
{
    (void)batch, (void)error;
    return HYPURA_OK;
}

hypura_status gpu_pass_lend(struct batch *batch, hypura_error *error)
{
    (void)batch, (void)error;
    return HYPURA_OK;
}

uint64_t gpu_pass_scratch_bytes(const struct geometry *geometry, uint32_t chunk, uint32_t positions)
{
    (void)geometry, (void)chunk, (void)positions;
    return 0;
}
