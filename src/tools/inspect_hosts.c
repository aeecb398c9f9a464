/* Plans a model for several hosts without access to them, and writes the parts of its file that each needs. */
#include "tools/inspect.h"

#include "api/figures.h"
#include "api/opening.h"
#include "model/parts.h"
#include "plan/hosts.h"
#include "tools/hosts_file.h"

#include <string.h>

struct planned {
    struct opening opening;
    struct inspected inspected;
    struct hosts_file hosts;
    struct plan_hosts plan;
    struct plan *first;
};

static hypura_status plan_them(struct planned *out, const char *path, const char *hosts_path,
                               const hypura_options *options, const hypura_inspection *what, hypura_error *error)
{
    *out = (struct planned){.inspected = {.descriptor = -1}};
    hypura_status status = read_options(&out->opening, options, error);
    if (!status && out->opening.engine.budget)
        status = error_set(error, HYPURA_ERROR_ARGUMENT,
                           "a plan for hosts takes no memory size: the hosts file says how much memory each host has");
    if (!status)
        status = inspect_find(&out->inspected, path, what, error);
    if (!status)
        status = hosts_file_read(&out->hosts, hosts_path, error);
    if (!status)
        status = model_open(&out->inspected.model, out->inspected.path, error);
    if (!status)
        status = engine_plan_hosts(&out->plan, &out->first, out->inspected.model, out->hosts.hosts, out->hosts.count,
                                   &out->opening.engine, error);
    return status;
}

static void close_planned(struct planned *planned)
{
    plan_free(planned->first);
    inspect_close(&planned->inspected);
    hosts_file_free(&planned->hosts);
    close_options(&planned->opening);
}

/* Returns the first host from the same entry of the file. */
static uint32_t first_alike(const struct hosts_file *hosts, uint32_t h)
{
    uint32_t first = 0;
    while (hosts->hosts[first].hardware != hosts->hosts[h].hardware)
        first++;
    return first;
}

static json_t *host_json(const struct planned *planned, uint32_t h)
{
    const struct plan_hosts_part *part = &planned->plan.parts[h];
    const struct engine_host *host = &planned->hosts.hosts[h];
    return json_pack("{s:o, s:I, s:f, s:f, s:i, s:I, s:I, s:f, s:f, s:f, s:f, s:i}", "name", text_json(host->name),
                     "memory_bytes", (json_int_t)host->memory, "share", part->share, "experts_per_layer", part->experts,
                     "layers", (int)part->layers, "bytes", (json_int_t)part->bytes, "held_bytes",
                     (json_int_t)part->held_bytes, "hit_rate", part->hit_rate, "drive_bytes_per_token",
                     part->drive_bytes, "link_bytes_per_token", part->link_bytes, "compute_seconds_per_token",
                     part->compute_seconds, "same_machine_as", (int)first_alike(&planned->hosts, h));
}

static json_t *all_json(const struct planned *planned)
{
    const struct model *model = planned->inspected.model;
    const struct plan_hosts *plan = &planned->plan;
    hypura_model_info info = {0};
    json_t *list = json_array(), *without = json_object();
    describe_model(&info, model);
    for (uint32_t h = 0; h < plan->count; h++)
        json_array_append_new(list, host_json(planned, h));
    for (enum plan_hosts_bound b = HOSTS_BOUND_FIRST; b <= HOSTS_BOUND_LINKS; b++)
        json_object_set_new(without, plan_hosts_bound_name(b), json_real(plan->without[b]));
    return json_pack("{s:o, s:s, s:s, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:i, s:i, s:f, s:f, s:f, s:f, s:s, "
                     "s:o, s:f, s:f, s:f, s:o}",
                     "model", text_json(info.name), "architecture", info.architecture, "title", info.title, "bytes",
                     (json_int_t)info.weight_bytes, "files", (int)info.files, "layers", (int)info.layers, "embedding",
                     (int)info.embedding_width, "experts", (int)info.experts, "experts_used", (int)info.experts_used,
                     "vocabulary", (int)info.vocabulary_size, "trained_context", (int)info.trained_tokens, "reason",
                     plan->reason, "hosts_used", (int)plan->used, "context", (int)planned->first->positions,
                     "decode_tokens_per_second", plan->tokens_per_second, "decode_tokens_per_second_even",
                     plan->even_tokens_per_second, "decode_tokens_per_second_alone", plan->alone_tokens_per_second,
                     "prompt_tokens_per_second", plan->prompt_tokens_per_second, "bound",
                     plan_hosts_bound_name(plan->bound), "decode_tokens_per_second_without", without,
                     "drive_bytes_per_token", plan->drive_bytes, "link_bytes_per_token", plan->link_bytes,
                     "messages_per_token", plan->messages, "hosts", list);
}

hypura_status hypura_inspect_hosts(const char *path, const char *hosts_path, const hypura_options *options,
                                   const hypura_inspection *given, char **json, hypura_error *error)
{
    struct planned planned;
    hypura_inspection what;
    hypura_status status = take_struct(&what, sizeof what, given, "hypura_inspection", error);
    if (status)
        return status;
    status = plan_them(&planned, path, hosts_path, options, &what, error);
    if (!status) {
        const uint64_t failures = memory_failures();
        status = inspect_text(json, all_json(&planned), failures, error);
    }
    close_planned(&planned);
    return status;
}

/* ---- parts ------------------------------------------------------------------------------------------------------ */

struct listener {
    bool (*tell)(void *context, bool checking, uint64_t done, uint64_t all);
    void *context;
};

static bool pass_on(void *context, const struct parts_moment *moment)
{
    const struct listener *listener = context;
    return !listener->tell || listener->tell(listener->context, moment->verifying, moment->done, moment->total);
}

static hypura_status find_host(uint32_t *out, const struct planned *planned, const char *host, hypura_error *error)
{
    uint32_t h = 0;
    while (h < planned->hosts.count && strcmp(planned->hosts.hosts[h].name, host) != 0)
        h++;
    if (h == planned->hosts.count)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "there is no host \"%.60s\" in the file", host);
    if (model_parameters(planned->inspected.model)->experts == 0)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s has no experts: each host needs the whole model",
                         model_name(planned->inspected.model));
    if (h == 0 || planned->plan.parts[h].share <= 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%.60s %s", host,
                         h ? "has no experts in this plan" : "is the first host, which needs the whole model");
    *out = h;
    return HYPURA_OK;
}

static hypura_status write_part(const struct planned *planned, const char *host, const char *out_path,
                                struct listener *listener, hypura_error *error)
{
    const struct model *model = planned->inspected.model;
    uint8_t *units = NULL;
    uint64_t weights = 0;
    uint32_t h = 0;
    hypura_status status = find_host(&h, planned, host, error);
    if (!status)
        status = ALLOCATE(&units, model_unit_count(model), "parts of a model", error);
    if (!status)
        status = engine_hosts_part(units, model, &planned->plan, h, error);
    if (!status)
        status = engine_weights_digest(&weights, model, error);
    if (!status)
        status = parts_write(out_path, model, units, weights, pass_on, listener, error);
    memory_free(units);
    return status;
}

hypura_status hypura_write_part(const char *path, const char *hosts_path, const hypura_options *options,
                                const char *host, const char *out_path,
                                bool (*on_progress)(void *context, bool checking, uint64_t done, uint64_t all),
                                void *context, hypura_error *error)
{
    struct planned planned;
    struct listener listener = {on_progress, context};
    const hypura_inspection what = {.struct_size = sizeof what};
    hypura_status status = plan_them(&planned, path, hosts_path, options, &what, error);
    if (!status)
        status = write_part(&planned, host, out_path, &listener, error);
    close_planned(&planned);
    return status;
}
