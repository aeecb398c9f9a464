/* libFuzzer target: arbitrary text as a chat template, rendered with a chat that has every kind of message. */
#include "fuzz.h"

#include "template/template.h"

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
        status = chat_template_render(template, variables, NULL, 1722006245, NULL, &text, &error);
        chat_template_free(template);
    }
    must_explain(status, &error);
    /* The ranges of a rendering are in order. */
    for (size_t i = 0; i < text.user_count; i++)
        must(text.user[i].start < text.user[i].end && text.user[i].end <= text.size &&
             (i == 0 || text.user[i].start > text.user[i - 1].end));
    rendered_text_free(&text);
    return 0;
}
