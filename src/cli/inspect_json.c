/* The JSON of hypura/inspect.h: its members, and what every description begins with. */
#include "cli/inspect.h"

#include <string.h>

const char *text_of(const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));
    return text ? text : "?";
}

double number_of(const json_t *json, const char *key)
{
    return json_number_value(json_object_get(json, key));
}

void print_header(const json_t *json)
{
    const hypura_model_info info = {.name = text_of(json, "model"),
                                    .architecture = text_of(json, "architecture"),
                                    .title = text_of(json, "title"),
                                    .weight_bytes = (uint64_t)number_of(json, "bytes"),
                                    .files = (uint32_t)number_of(json, "files"),
                                    .layers = (uint32_t)number_of(json, "layers"),
                                    .embedding_width = (uint32_t)number_of(json, "embedding"),
                                    .vocabulary_size = (uint32_t)number_of(json, "vocabulary"),
                                    .trained_tokens = (uint32_t)number_of(json, "trained_context"),
                                    .experts = (uint32_t)number_of(json, "experts"),
                                    .experts_used = (uint32_t)number_of(json, "experts_used")};
    print_summary(stdout, &info);
}

int show_description(char *text, bool raw, void (*print)(const json_t *json))
{
    hypura_error error;
    if (raw) {
        puts(text);
        hypura_free(text);
        return EXIT_OK;
    }
    json_t *json = read_json(text, strlen(text), JSON_ALLOW_NUL, NULL);
    hypura_free(text);
    if (!json) {
        set_error(&error, HYPURA_ERROR_MEMORY, "no memory for the description of the model");
        return report_error(&error);
    }
    print(json);
    json_decref(json);
    return EXIT_OK;
}
