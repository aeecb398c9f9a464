/* The rows of the output matrix that a device multiplies, if several divide it. The last device has all of the matrix,
 * the others a copy of their rows. */
#include "engine/gpu/pass.h"

/* Bytes that are read and sent at once. */
#define PIECE_BYTES ((uint64_t)8 << 20)

static hypura_status bring(struct batch *batch, uint64_t from, uint64_t bytes, void *piece, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    gpu_ticket arrived = 0;
    hypura_status status = HYPURA_OK;
    for (uint64_t done = 0; done < bytes && !status; done += PIECE_BYTES) {
        const uint64_t now = MIN(bytes - done, PIECE_BYTES);
        status = store_read(batch->open->store, pass_output_step(batch)->unit, from + done, now, piece, error);
        if (!status)
            status = gpu_upload(pass->gpu, (struct gpu_range){pass->output_copy, done}, piece, now, &arrived, error);
    }
    /* Even after an error: no upload may be under way to a buffer that is about to be destroyed. */
    const hypura_status waited = gpu_upload_wait(pass->gpu, arrived, status ? NULL : error);
    return status ? status : waited;
}

hypura_status pass_copy_output(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct plan_gpu *part = pass->plan;
    uint8_t *piece;
    if (part->output || part->output_rows == 0)
        return HYPURA_OK;
    const uint64_t row_bytes = part->copied_bytes / part->output_rows;
    TRY(gpu_buffer_create(pass->gpu, &pass->output_copy, part->copied_bytes, GPU_DEVICE, error));
    TRY(ALLOCATE(&piece, PIECE_BYTES, "rows of the output matrix", error));
    const hypura_status status = bring(batch, part->output_first * row_bytes, part->copied_bytes, piece, error);
    memory_free(piece);
    return status;
}

struct gpu_matrix pass_output_rows(const struct batch *batch)
{
    const struct gpu_pass *pass = batch->pass;
    const struct plan_gpu *part = pass->plan;
    const struct gguf_tensor *tensor = model_unit(batch->open->model, pass_output_step(batch)->unit)->slices[0].tensor;
    struct gpu_matrix matrix = {.data = {pass->output_copy, 0},
                                .type = tensor->type,
                                .columns = (uint32_t)tensor->dimensions[0],
                                .row_bytes = tensor->bytes / tensor->dimensions[1]};
    if (part->output)
        matrix = pass_matrix(batch, pass_output_step(batch)->unit);
    matrix.rows = part->output_rows;
    return matrix;
}

bool pass_divides_output(const struct batch *batch)
{
    return batch->open->plan->gpu->output_divided && batch->rows <= GPU_VECTOR_TOKENS && batch->wanted == batch->rows &&
           batch->wanted <= batch->open->geometry.logits_rows && !batch->trace;
}
