/* hypura inspect --hosts: the plan for several hosts, without running on them. */
#include "cli/inspect.h"

#include <string.h>

/* Describes the bound that the plan names. */
static const char *bound_text(const char *name)
{
    static const char *const texts[][2] = {{"first host", "the weights that all tokens use, on the first host"},
                                           {"experts", "computing experts, or layers on other hosts"},
                                           {"drives", "reading experts from drives"},
                                           {"links", "sending data between hosts"}};
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        if (strcmp(texts[i][0], name) == 0)
            return texts[i][1];
    return name;
}

static bool is_alike(const json_t *hosts, size_t a, size_t b)
{
    const json_t *one = json_array_get(hosts, a), *other = json_array_get(hosts, b);
    return a && number_of(one, "same_machine_as") == number_of(other, "same_machine_as") &&
           (number_of(one, "share") > 0) == (number_of(other, "share") > 0);
}

static void print_host(const json_t *host, bool first, size_t alike)
{
    char name[80], a[32], b[32], c[32];
    const double share = number_of(host, "share");
    snprintf(name, sizeof name, alike > 1 ? "%.60s and %zu more" : "%.60s", text_of(host, "name"), alike - 1);
    printf("  %-28.60s ", name);
    if (share <= 0) {
        printf("%s\n", first ? "attention, embeddings, the output" : "nothing");
        return;
    }
    if (number_of(host, "layers") > 0)
        printf("%5.0f layers%s", number_of(host, "layers"), alike > 1 ? " each" : "");
    else
        printf("%5.1f %% of the experts%s", 100 * share, alike > 1 ? " each" : "");
    printf(": %s, %s in memory", size_text(a, sizeof a, number_of(host, "bytes")),
           size_text(b, sizeof b, number_of(host, "held_bytes")));
    if (number_of(host, "hit_rate") < 1)
        printf(", %s read per token", size_text(c, sizeof c, number_of(host, "drive_bytes_per_token")));
    putchar('\n');
}

static void print_hosts(const json_t *json)
{
    const json_t *hosts = json_object_get(json, "hosts");
    const size_t count = json_array_size(hosts);
    const char *bound = text_of(json, "bound");
    char text[RANGE_TEXT];
    print_header(json);
    printf("\nPlan for %zu %s\n  ", count, count == 1 ? "host" : "hosts");
    print_paragraph(stdout, text_of(json, "reason"), 2);
    for (size_t h = 0, alike; h < count; h += alike) {
        for (alike = 1; h + alike < count && is_alike(hosts, h, h + alike); alike++)
            ;
        print_host(json_array_get(hosts, h), h == 0, alike);
    }
    printf("  %-28s %10s per token, in %.0f messages\n", "sent between hosts",
           size_text(text, sizeof text, number_of(json, "link_bytes_per_token")),
           number_of(json, "messages_per_token"));
    printf("  %-28s %10s per token\n", "read from drives",
           size_text(text, sizeof text, number_of(json, "drive_bytes_per_token")));
    range_text(text, 2, number_of(json, "decode_tokens_per_second_even"), number_of(json, "decode_tokens_per_second"));
    printf("  %-28s %s tokens/s, bound by %s\n", "expected", text, bound_text(bound));
    printf("  %-28s %.4g tokens/s for a prompt of 512 tokens\n", "", number_of(json, "prompt_tokens_per_second"));
    printf("  %-28s %.2f tokens/s if that took no time; %.2f without the other hosts\n", "",
           number_of(json_object_get(json, "decode_tokens_per_second_without"), bound),
           number_of(json, "decode_tokens_per_second_alone"));
}

static bool show_progress(void *context, bool checking, uint64_t done, uint64_t all)
{
    char a[32], b[32];
    (void)context;
    show_line("%s %s of %s", checking ? "checked" : "copied", size_text(a, sizeof a, (double)done),
              size_text(b, sizeof b, (double)all));
    return !interrupted();
}

/* wanted: HOST=FILE. Writes the part of the model that this host serves. */
static hypura_status write_parts(const char *path, const char *file, const char *wanted, const hypura_options *options,
                                 hypura_error *error)
{
    const char *equals = strchr(wanted, '=');
    char host[128];
    if (!equals || equals == wanted || !equals[1])
        return set_error(error, HYPURA_ERROR_ARGUMENT, "--parts %.100s: expected HOST=FILE", wanted);
    snprintf(host, sizeof host, "%.*s", (int)MIN(equals - wanted, 120), wanted);
    interrupts_cancel_session(NULL);
    hypura_status status = hypura_write_part(path, file, options, host, equals + 1, show_progress, NULL, error);
    clear_line();
    return status;
}

int inspect_hosts(const char *path, const char *file, const char *parts, hypura_options *options,
                  const hypura_inspection *what, bool as_json)
{
    hypura_error error = {0};
    char *text = NULL;
    hypura_status status = HYPURA_OK;
    if (options->memory_bytes)
        status = set_error(&error, HYPURA_ERROR_ARGUMENT,
                           "--hosts and --memory exclude each other: the file says what "
                           "memory each host has");
    if (!status && parts)
        status = write_parts(path, file, parts, options, &error);
    if (!status)
        status = hypura_inspect_hosts(path, file, options, what, &text, &error);
    return status ? report_error(&error) : show_description(text, as_json, print_hosts);
}
