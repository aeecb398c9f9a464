/* Answers of other ranks. While a watch is set (engine_watch_inputs), a rank sends what its matrices are multiplied by
 * before the results. A matrix is on one rank, and its rows come in the order of the batch, so sums over them have the
 * same bits as on one host. */
#include "engine/cluster/share.h"

static hypura_status take_input(struct batch *batch, uint32_t rank, const struct message *message, hypura_error *error)
{
    struct share *share = batch->share;
    const struct gguf *file = model_file(batch->open->model);
    struct seen_input input;
    if (!batch->watch || message->model != share->model || message->bytes < sizeof input)
        return cluster_refuse(share->cluster, rank, "inputs that were not expected", error);
    TRY(cluster_read(share->cluster, rank, &input, sizeof input, error));
    const struct gguf_tensor *tensor =
        input.tensor < gguf_tensor_count(file) ? gguf_tensor_at(file, input.tensor) : NULL;
    if (!tensor || input.columns != tensor->dimensions[0] ||
        message->bytes != sizeof input + input.columns * sizeof(float))
        return cluster_refuse(share->cluster, rank, "inputs of another model", error);
    const size_t columns = (size_t)input.columns;
    if (columns > share->input_columns) {
        TRY(memory_resize((void **)&share->input, share->input_columns, columns, sizeof *share->input,
                          "input of another host's matrix", error));
        share->input_columns = columns;
    }
    TRY(cluster_read(share->cluster, rank, share->input, columns * sizeof *share->input, error));
    batch->watch->see(batch->watch->context, tensor, input.matrix, share->input, columns);
    return HYPURA_OK;
}

hypura_status share_answer(struct batch *batch, uint32_t rank, uint64_t bytes, hypura_error *error)
{
    struct share *share = batch->share;
    struct message message;
    TRY(message_receive(share->cluster, rank, &message, error));
    while (message.kind == MESSAGE_INPUT) {
        TRY(take_input(batch, rank, &message, error));
        TRY(message_receive(share->cluster, rank, &message, error));
    }
    return message_check(share->cluster, rank, &message, MESSAGE_ROWS, share->model, bytes, error);
}
