/* hypura inspect --hosts: what several hosts would do with a model together, without them. */
#include "cli/inspect.h"

#include "model/parts.h"
#include "plan/hosts.h"
#include "tools/hosts_file.h"

#include <string.h>

static const char *const bound_texts[] = {"what all tokens use, on the first host", "computing experts",
                                          "reading experts from drives", "what travels between hosts"};

static void speed_text(const struct plan_hosts *plan, char *text, size_t room)
{
    char even[32];
    snprintf(even, sizeof even, "%.2f", plan->even_tokens_per_second);
    snprintf(text, room, "%.2f", plan->tokens_per_second);
    if (strcmp(even, text) != 0)
        snprintf(text, room, "%s to %.2f", even, plan->tokens_per_second);
}

static bool is_alike(const struct plan_hosts *plan, const struct hosts_file *hosts, uint32_t a, uint32_t b)
{
    return a && hosts->hosts[a].hardware == hosts->hosts[b].hardware &&
           (plan->parts[a].share > 0) == (plan->parts[b].share > 0);
}

static void print_host(const struct plan_hosts *plan, const struct hosts_file *hosts, uint32_t h, uint32_t alike)
{
    const struct plan_hosts_part *part = &plan->parts[h];
    char name[80], a[32], b[32], c[32];
    snprintf(name, sizeof name, alike > 1 ? "%s and %u more" : "%s", hosts->hosts[h].name, alike - 1);
    printf("  %-28.60s ", name);
    if (part->share <= 0) {
        printf("%s\n", h ? "nothing" : "no experts");
        return;
    }
    printf("%5.1f %% of the experts%s: %s, %s in memory", 100 * part->share, alike > 1 ? " each" : "",
           format_bytes(a, sizeof a, (double)part->bytes), format_bytes(b, sizeof b, (double)part->held_bytes));
    if (part->hit_rate < 1)
        printf(", %s read per token", format_bytes(c, sizeof c, part->drive_bytes));
    putchar('\n');
}

static void print_hosts(const struct plan_hosts *plan, const struct hosts_file *hosts)
{
    char text[80];
    printf("\nPlan for %u %s\n  ", plan->count, plan->count == 1 ? "host" : "hosts");
    print_paragraph(stdout, plan->reason, 2);
    for (uint32_t h = 0, alike; h < plan->count; h += alike) {
        for (alike = 1; h + alike < plan->count && is_alike(plan, hosts, h, h + alike); alike++)
            ;
        print_host(plan, hosts, h, alike);
    }
    printf("  %-28s %10s per token, in %.0f messages\n", "travels", format_bytes(text, sizeof text, plan->link_bytes),
           plan->messages);
    printf("  %-28s %10s per token\n", "read from drives", format_bytes(text, sizeof text, plan->drive_bytes));
    speed_text(plan, text, sizeof text);
    printf("  %-28s %s tokens/s, bound by %s\n", "expected", text, bound_texts[plan->bound]);
    printf("  %-28s %.2f tokens/s if that took no time; %.2f without the other hosts\n", "", plan->without[plan->bound],
           plan->alone_tokens_per_second);
}

static json_t *host_json(const struct plan_hosts_part *part, const struct engine_host *host)
{
    return json_pack("{s:o, s:I, s:f, s:f, s:I, s:I, s:f, s:f, s:f, s:f}", "name", json_text(host->name), "memory_bytes",
                     (json_int_t)host->memory, "share", part->share, "experts_per_layer", part->experts, "bytes",
                     (json_int_t)part->bytes, "held_bytes", (json_int_t)part->held_bytes, "hit_rate", part->hit_rate,
                     "drive_bytes_per_token", part->drive_bytes, "link_bytes_per_token", part->link_bytes,
                     "compute_seconds_per_token", part->compute_seconds);
}

static void print_hosts_json(const struct model *model, const struct plan_hosts *plan, const struct plan *first,
                             const struct hosts_file *hosts)
{
    json_t *list = json_array();
    for (uint32_t h = 0; h < plan->count; h++)
        json_array_append_new(list, host_json(&plan->parts[h], &hosts->hosts[h]));
    json_t *without = json_object();
    for (enum plan_hosts_bound b = HOSTS_BOUND_FIRST; b <= HOSTS_BOUND_LINKS; b++)
        json_object_set_new(without, plan_hosts_bound_name(b), json_real(plan->without[b]));
    json_t *json = json_pack("{s:o, s:I, s:s, s:i, s:i, s:f, s:f, s:f, s:s, s:o, s:f, s:f, s:f, s:o}", "model",
                             json_text(model_name(model)), "bytes", (json_int_t)model_bytes(model), "reason",
                             plan->reason, "hosts_used", (int)plan->used, "context", (int)first->positions,
                             "decode_tokens_per_second", plan->tokens_per_second, "decode_tokens_per_second_even",
                             plan->even_tokens_per_second, "decode_tokens_per_second_alone",
                             plan->alone_tokens_per_second, "bound", plan_hosts_bound_name(plan->bound),
                             "decode_tokens_per_second_without", without, "drive_bytes_per_token", plan->drive_bytes,
                             "link_bytes_per_token", plan->link_bytes, "messages_per_token", plan->messages, "hosts", list);
    print_json(json);
    json_decref(json);
}

static bool show_progress(void *context, const struct parts_moment *moment)
{
    char a[32], b[32];
    (void)context;
    show_line("%s %s of %s", moment->verifying ? "checked" : "copied", format_bytes(a, sizeof a, (double)moment->done),
              format_bytes(b, sizeof b, (double)moment->total));
    return !interrupted();
}

/* HOST=FILE: what that host serves. */
static hypura_status write_parts(const struct model *model, const struct plan_hosts *plan, const struct hosts_file *hosts,
                                 const char *wanted, hypura_error *error)
{
    const char *equals = strchr(wanted, '=');
    uint32_t h = 0;
    if (!equals || equals == wanted || !equals[1])
        return error_set(error, HYPURA_ERROR_ARGUMENT, "--parts takes HOST=FILE, not \"%.100s\"", wanted);
    const size_t length = (size_t)(equals - wanted);
    while (h < hosts->count && (strncmp(hosts->hosts[h].name, wanted, length) != 0 || hosts->hosts[h].name[length]))
        h++;
    if (h == hosts->count)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "--parts: there is no host \"%.*s\" in the file", (int)MIN(length, 60),
                         wanted);
    if (h == 0 || plan->parts[h].share <= 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "--parts: %s %s", hosts->hosts[h].name,
                         h ? "has no experts in this plan" : "is the first host, which needs the whole model");
    uint8_t *units;
    uint64_t weights = 0;
    hypura_status status = ALLOCATE(&units, model_unit_count(model), "parts of a model", error);
    if (!status)
        status = engine_hosts_part(units, model, plan, h, error);
    if (!status)
        status = engine_weights_digest(&weights, model, error);
    if (!status) {
        interrupts_cancel(NULL);
        status = parts_write(equals + 1, model, units, weights, show_progress, NULL, error);
        clear_line();
    }
    memory_free(units);
    return status;
}

int inspect_hosts(const char *path, const char *file, const char *parts, bool as_json)
{
    hypura_error error = {0};
    struct engine_options options;
    struct hosts_file hosts = {0};
    struct model *model = NULL;
    struct plan_hosts plan;
    struct plan *first = NULL;
    hypura_status status = engine_options_of(&options, &error);
    if (!status && options.budget)
        status = error_set(&error, HYPURA_ERROR_ARGUMENT, "--hosts and --memory exclude each other: the file says what "
                           "memory each host has");
    if (!status)
        status = hosts_file_read(&hosts, file, &error);
    if (!status)
        status = model_open(&model, path, &error);
    if (!status)
        status = engine_plan_hosts(&plan, &first, model, hosts.hosts, hosts.count, &options, &error);
    if (!status && parts)
        status = write_parts(model, &plan, &hosts, parts, &error);
    if (!status && as_json) {
        print_hosts_json(model, &plan, first, &hosts);
    } else if (!status) {
        print_summary_of(stdout, model);
        print_hosts(&plan, &hosts);
    }
    plan_free(first);
    model_close(model);
    hosts_file_free(&hosts);
    return status ? report_error(&error) : EXIT_OK;
}
