#include "engine/cluster/share.h"

#include "engine/cluster/part.h"
#include "engine/gpu/pass.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t models; /* the number of models so far, which is the next one's number */

static hypura_status ask(struct share *share, const struct engine *engine, const char *path, hypura_error *error)
{
    const struct ask ask = {.predicting = model_parameters(engine->open.model)->predicting,
                            .path_bytes = (uint32_t)strlen(path)};
    if (ask.path_bytes > MESSAGE_PATH_MOST)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path of the model is too long");
    for (uint32_t rank = 1; rank < share->ranks; rank++) {
        TRY(message_send(share->cluster, rank, MESSAGE_ASK, share->model, sizeof ask + ask.path_bytes, error));
        TRY(cluster_write(share->cluster, rank, &ask, sizeof ask, error));
        TRY(cluster_write(share->cluster, rank, path, ask.path_bytes, error));
        TRY(cluster_flush(share->cluster, rank, error));
    }
    return HYPURA_OK;
}

/* Receives the list of experts from a rank whose file holds only parts of the model. */
static hypura_status hear_list(struct share *share, uint32_t rank, uint64_t bytes, uint8_t **out, hypura_error *error)
{
    if (bytes > MESSAGE_LIST_MOST)
        return cluster_refuse(share->cluster, rank, "a list of experts of another model", error);
    TRY(message_expect(share->cluster, rank, MESSAGE_HAS, share->model, bytes, error));
    TRY(ALLOCATE(out, (size_t)bytes, "experts of other hosts", error));
    return cluster_read(share->cluster, rank, *out, (size_t)bytes, error);
}

static hypura_status hear_measures(struct share *share, uint32_t rank, uint64_t digest, uint64_t experts,
                                   struct plan_host *host, uint8_t **has, hypura_error *error)
{
    struct measured measured;
    TRY(message_expect(share->cluster, rank, MESSAGE_MEASURED, share->model, sizeof measured, error));
    TRY(cluster_read(share->cluster, rank, &measured, sizeof measured, error));
    if (measured.listed)
        TRY(hear_list(share, rank, measured.listed, has, error));
    if (measured.digest != digest || (measured.listed && measured.listed != experts))
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s and %s have different models or adapters under this name: their digests differ",
                         cluster_host(share->cluster, rank), cluster_host(share->cluster, 0));
    if (measured.instructions != (uint32_t)compute_best_instructions())
        log_write(LOG_WARNING,
                  "%s computes with other instructions than %s, so the last bits may differ from those of one host",
                  cluster_host(share->cluster, rank), cluster_host(share->cluster, 0));
    const struct cluster_link link = cluster_link(share->cluster, rank);
    *host = (struct plan_host){.link_bytes_per_second = link.bytes_per_second,
                               .link_seconds = link.seconds + measured.device_seconds,
                               .memory = measured.memory,
                               .expert_room = measured.expert_room,
                               .compute_bytes_per_second = measured.compute_bytes_per_second,
                               .multiply_adds_per_second = measured.multiply_adds_per_second,
                               .drive_bytes_per_second = measured.drive_bytes_per_second};
    return HYPURA_OK;
}

static hypura_status place(struct share *share, const struct model *model, hypura_error *error)
{
    const uint32_t units = model_unit_count(model);
    for (uint32_t rank = 1; rank < share->ranks; rank++) {
        TRY(message_send(share->cluster, rank, MESSAGE_PLACE, share->model, units, error));
        TRY(cluster_write(share->cluster, rank, share->owners, units, error));
        TRY(cluster_flush(share->cluster, rank, error));
    }
    share->placed = true;
    return HYPURA_OK;
}

static void tell(const struct share *share, const struct plan_host *hosts, const struct model *model)
{
    uint64_t bytes[CLUSTER_MOST_RANKS] = {0};
    const bool mixture = model_parameters(model)->experts;
    char has[32], room[32];
    for (unit_number u = 0; u < model_unit_count(model); u++)
        if (!mixture || model_unit(model, u)->kind == UNIT_EXPERT)
            bytes[share->owners[u]] += model_unit(model, u)->bytes;
    for (uint32_t rank = 0; rank < share->ranks; rank++) {
        const struct cluster_link link = cluster_link(share->cluster, rank);
        char way[120] = "";
        if (rank)
            snprintf(way, sizeof way, "; a round trip takes %.0f us, and the link carries %.2f GB/s",
                     link.seconds * 1e6, link.bytes_per_second * 1e-9);
        log_write(LOG_INFO, "%s has %s of the %s, with room for %s%s", cluster_host(share->cluster, rank),
                  format_bytes(has, sizeof has, (double)bytes[rank]), mixture ? "experts" : "weights",
                  format_bytes(room, sizeof room, (double)hosts[rank].expert_room), way);
    }
}

/* Whether every rank gets a share by its memory, whatever that costs: for tests and comparisons. */
static bool spreads_over_all(void)
{
    const char *value = getenv("HYPURA_HOSTS");
    return value && strcmp(value, "all") == 0;
}

static hypura_status choose(struct share *share, const struct engine *engine, const struct plan *first,
                            const struct plan_request *request, const struct plan_host *hosts,
                            const uint8_t *const *has, hypura_error *error)
{
    const struct opened *open = &engine->open;
    struct plan_hosts plan;
    if (spreads_over_all())
        plan_hosts_spread(&plan, open->model, hosts, share->ranks);
    else
        TRY(plan_hosts_make(&plan, first, open->model, open->steps, &open->hardware, request, hosts, share->ranks,
                            error));
    if (plan.tokens_per_second > 0)
        log_write(LOG_INFO, "%s About %.2f tokens/s are expected, %.2f without the other hosts.", plan.reason,
                  plan.tokens_per_second, plan.alone_tokens_per_second);
    share->expected = plan.tokens_per_second;
    for (uint32_t h = 0; h < share->ranks; h++)
        share->layers[h] = model_parameters(open->model)->experts ? 0 : plan.parts[h].layers;
    return plan_hosts_owners(share->owners, open->model, open->steps, &plan, has, error);
}

/* The speed of rank 0's own link, which all other ranks share: the best measured to another host or, without one, to
 * any rank. */
static double own_link(const struct cluster *cluster)
{
    double best = 0, among = 0;
    for (uint32_t rank = 1; rank < cluster_size(cluster); rank++) {
        const struct cluster_link link = cluster_link(cluster, rank);
        if (!link.same_host)
            best = MAX(best, link.bytes_per_second);
        among = MAX(among, link.bytes_per_second);
    }
    return best > 0 ? best : among;
}

static hypura_status share_out(struct share *share, struct engine *engine, struct engine_options *options,
                               hypura_error *error)
{
    struct plan_host hosts[CLUSTER_MOST_RANKS] = {0};
    uint8_t *has[CLUSTER_MOST_RANKS] = {0};
    const struct model *model = engine->open.model;
    struct plan *first = NULL;
    struct plan_request request;
    const uint64_t experts = (uint64_t)model_parameters(model)->layers * model_parameters(model)->experts;
    uint64_t digest;
    struct opened *open = &engine->open;
    const struct part_of of = {&open->geometry, model, open->steps, open->adapters, &open->hardware, &open->devices};
    TRY(ask(share, engine, gguf_file_path(model_file(model), 0), error));
    hypura_status status = digest_of_model(&digest, &engine->open, NULL, error);
    if (!status)
        status = part_room(&hosts[0], NULL, &first, &request, &of, options, error);
    hypura_error further;
    for (uint32_t rank = 1; rank < share->ranks; rank++) { /* all of them, or an answer would remain in the stream */
        hypura_status one =
            hear_measures(share, rank, digest, experts, &hosts[rank], &has[rank], status ? &further : error);
        status = status ? status : one;
    }
    hosts[0].link_bytes_per_second = own_link(share->cluster);
    if (!status)
        status = choose(share, engine, first, &request, hosts, (const uint8_t *const *)has, error);
    plan_free(first);
    for (uint32_t rank = 0; rank < share->ranks; rank++)
        memory_free(has[rank]);
    if (status)
        return status;
    for (unit_number u = 0; u < model_unit_count(model); u++)
        share->elsewhere[u] = share->owners[u] != 0;
    tell(share, hosts, model);
    return place(share, model, error);
}

static hypura_status check(const struct engine *engine, hypura_error *error)
{
    const struct model *model = engine->open.model;
    if (model_parameters(model)->experts > UINT16_MAX)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s has too many experts to distribute over hosts",
                         model_name(model));
    return HYPURA_OK;
}

hypura_status share_open(struct engine *engine, struct engine_options *options, hypura_error *error)
{
    struct share *share;
    const struct model_parameters *p = model_parameters(engine->open.model);
    const size_t choices = (size_t)MESSAGE_ROWS_MOST * MAX(p->experts_used, 1u);
    TRY(check(engine, error));
    part_options(options, &engine->open.hardware);
    gpu_pass_keep_budgets(options, &engine->open.devices, &engine->open.hardware);
    TRY(ALLOCATE(&share, 1, "experts on other hosts", error));
    engine->batch.share = share;
    pthread_mutex_init(&share->mutex, NULL);
    share->cluster = cluster_here();
    share->ranks = cluster_size(share->cluster);
    share->model = models++;
    share->units = model_unit_count(engine->open.model);
    TRY(ALLOCATE(&share->owners, share->units, "experts on other hosts", error));
    TRY(ALLOCATE(&share->elsewhere, share->units, "experts on other hosts", error));
    TRY(ALLOCATE(&share->choices, choices, "experts on other hosts", error));
    TRY(ALLOCATE(&share->weights, choices, "experts on other hosts", error));
    TRY(share_out(share, engine, options, error));
    options->elsewhere = share->elsewhere;
    return HYPURA_OK;
}

hypura_status share_wait(struct share *share, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    hypura_error further;
    uint64_t digest = fnv1a(FNV1A_START, share->owners, share->units);
    share->rows = MESSAGE_ROWS_MOST;
    share->placed = false;
    for (uint32_t rank = 1; rank < share->ranks; rank++) {
        struct ready ready;
        hypura_error *where = status ? &further : error;
        hypura_status one = message_expect(share->cluster, rank, MESSAGE_READY, share->model, sizeof ready, where);
        if (!one)
            one = cluster_read(share->cluster, rank, &ready, sizeof ready, where);
        if (!one && (ready.digest != digest || ready.chunk == 0))
            one = cluster_refuse(share->cluster, rank, "the digest of another plan", where);
        if (!one)
            share->rows = (uint32_t)MIN((uint64_t)share->rows, ready.chunk);
        if (!one)
            share->streams |= ready.streams != 0;
        status = status ? status : one;
    }
    return status;
}

void share_close(struct share *share)
{
    hypura_error error;
    if (!share)
        return;
    if (share->placed)
        share_wait(share, &error);
    for (uint32_t rank = 1; rank < share->ranks; rank++)
        message_send(share->cluster, rank, MESSAGE_CLOSE, share->model, 0, &error);
    pthread_mutex_destroy(&share->mutex);
    memory_free(share->owners);
    memory_free(share->elsewhere);
    memory_free(share->choices);
    memory_free(share->weights);
    memory_free(share->input);
    memory_free(share);
}
