#include "engine/cluster/share.h"

#include <string.h>

#define MAGIC 0x4859504Du

static hypura_status send(struct cluster *cluster, uint32_t rank, const struct message *message, hypura_error *error)
{
    TRY(cluster_write(cluster, rank, message, sizeof *message, error));
    return message->bytes ? HYPURA_OK : cluster_flush(cluster, rank, error);
}

hypura_status message_send(struct cluster *cluster, uint32_t rank, enum message_kind kind, uint32_t model,
                           uint64_t bytes, hypura_error *error)
{
    return send(cluster, rank, &(struct message){MAGIC, kind, model, HYPURA_OK, bytes}, error);
}

hypura_status message_fail(struct cluster *cluster, uint32_t rank, uint32_t model, const hypura_error *failure,
                           hypura_error *error)
{
    const size_t length = strlen(failure->message);
    TRY(send(cluster, rank, &(struct message){MAGIC, MESSAGE_FAILED, model, failure->status, length + 1}, error));
    TRY(cluster_write(cluster, rank, failure->message, length + 1, error));
    return cluster_flush(cluster, rank, error);
}

hypura_status message_receive(struct cluster *cluster, uint32_t rank, struct message *out, hypura_error *error)
{
    TRY(cluster_read(cluster, rank, out, sizeof *out, error));
    if (out->magic != MAGIC || out->kind > MESSAGE_FAILED)
        return cluster_refuse(cluster, rank, "an invalid message", error);
    return HYPURA_OK;
}

static hypura_status take_failure(struct cluster *cluster, uint32_t rank, const struct message *message,
                                  hypura_error *error)
{
    hypura_error failure = {0};
    if (message->bytes == 0 || message->bytes > sizeof failure.message)
        return cluster_refuse(cluster, rank, "an error without a message", error);
    TRY(cluster_read(cluster, rank, failure.message, message->bytes, error));
    failure.message[message->bytes - 1] = 0;
    text_clean(failure.message);
    const bool known = message->status > HYPURA_OK && message->status <= HYPURA_ERROR_HOST;
    return error_set(error, known ? (hypura_status)message->status : HYPURA_ERROR_HOST, "%s: %s",
                     cluster_host(cluster, rank), failure.message);
}

hypura_status message_check(struct cluster *cluster, uint32_t rank, const struct message *message,
                            enum message_kind kind, uint32_t model, uint64_t bytes, hypura_error *error)
{
    if (message->kind == MESSAGE_FAILED && message->model == model)
        return take_failure(cluster, rank, message, error);
    if (message->kind != (uint32_t)kind || message->model != model || message->bytes != bytes)
        return cluster_refuse(cluster, rank, "an answer to another request", error);
    return HYPURA_OK;
}

hypura_status message_expect(struct cluster *cluster, uint32_t rank, enum message_kind kind, uint32_t model,
                             uint64_t bytes, hypura_error *error)
{
    struct message message;
    TRY(message_receive(cluster, rank, &message, error));
    return message_check(cluster, rank, &message, kind, model, bytes, error);
}
