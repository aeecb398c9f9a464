/* libFuzzer target: any text as a chat template, rendered with a chat that has everything. */
#include "model/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char chat[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be é.\"}, {\"role\": \"user\", \"content\": \" Hi\\n <b> "
    "\"},"
    "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": "
    "{\"a\": [1, 2.5, true]}}}]},"
    "{\"role\": \"tool\", \"content\": [{\"type\": \"text\", \"text\": \"42\"}]}],"
    "\"tools\": [{\"function\": {\"name\": \"f\", \"parameters\": {\"properties\": {\"a\": {\"type\": \"array\"}}}}}],"
    "\"add_generation_prompt\": true}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *variables;
    struct chat_template *template;
    struct rendered_text text = {0};
    hypura_error error = {0};
    if (!variables)
        variables = json_loads(chat, 0, NULL);
    hypura_status status = chat_template_parse(&template, (const char *)data, size, &error);
    if (status == HYPURA_OK) {
        status = chat_template_render(template, variables, NULL, 1722006245, &text, &error);
        chat_template_free(template);
    }
    /* A refusal has its sentence, a rendering its ranges in order. */
    if (status != HYPURA_OK && (error.status != status || !error.message[0]))
        __builtin_trap();
    for (size_t i = 0; i < text.user_count; i++)
        if (text.user[i].start >= text.user[i].end || text.user[i].end > text.size ||
            (i && text.user[i].start <= text.user[i - 1].end))
            __builtin_trap();
    rendered_text_free(&text);
    return 0;
}
