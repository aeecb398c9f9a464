/* Lets a model call a function that tells the time: tools MODEL.gguf "What time is it?". The model must have been
 * trained to call tools. */
#include "json.h"

#include <hypura/hypura.h>

#include <time.h>

static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"get_time\", \"description\": \"The time now\", "
    "\"parameters\": {\"type\": \"object\", \"properties\": {}}}}]";

struct turn {
    struct text content, calls, results; /* calls and results: elements of JSON arrays */
};

/* A real program would check event->name and parse event->text, the arguments as a JSON object. */
static bool on_event(void *context, const hypura_event *event)
{
    struct turn *turn = context;
    char number[32];
    if (event->kind == HYPURA_EVENT_CONTENT)
        append(&turn->content, event->text, event->size);
    if (event->kind != HYPURA_EVENT_TOOL_CALL)
        return true;
    time_t now = time(NULL);
    const char *text = ctime(&now);
    fprintf(stderr, "(the model calls %s %s)\n", event->name, event->text);
    snprintf(number, sizeof number, "\"call_%u\"", event->call_index);
    append_text(&turn->calls,
                turn->calls.size ? ", {\"type\": \"function\", \"id\": " : "{\"type\": \"function\", \"id\": ");
    append_text(&turn->calls, number);
    append_text(&turn->calls, ", \"function\": {\"name\": ");
    append_quoted(&turn->calls, event->name, strlen(event->name));
    append_text(&turn->calls, ", \"arguments\": ");
    append(&turn->calls, event->text, event->size);
    append_text(&turn->calls, "}}");
    append_text(&turn->results, ", {\"role\": \"tool\", \"tool_call_id\": ");
    append_text(&turn->results, number);
    append_text(&turn->results, ", \"content\": ");
    append_quoted(&turn->results, text, strcspn(text, "\n"));
    append_text(&turn->results, "}");
    return true;
}

/* Gets one answer. Appends its tool calls and their results to the messages, or prints its text. */
static hypura_status answer(hypura_session *session, struct text *messages, bool *called, hypura_error *error)
{
    struct turn turn = {0};
    hypura_chat chat = {.struct_size = sizeof chat, .messages = messages->data, .tools = tools};
    hypura_request request = {.struct_size = sizeof request, .chat = &chat, .max_tokens = 300};
    hypura_status status = hypura_answer(session, &request, on_event, &turn, error);
    *called = turn.calls.size > 0;
    if (!status && *called) {
        messages->size--; /* drop the closing bracket */
        append_text(messages, ", {\"role\": \"assistant\", \"content\": ");
        append_quoted(messages, turn.content.data ? turn.content.data : "", turn.content.size);
        append_text(messages, ", \"tool_calls\": [");
        append_text(messages, turn.calls.data);
        append_text(messages, "]}");
        append_text(messages, turn.results.data);
        append_text(messages, "]");
    } else if (!status) {
        printf("%s\n", turn.content.data ? turn.content.data : "");
    }
    free(turn.content.data);
    free(turn.calls.data);
    free(turn.results.data);
    return status;
}

int main(int count, char **arguments)
{
    hypura_model *model = NULL;
    hypura_session *session = NULL;
    hypura_error error = {.message = "name a model and a question"};
    if (count < 3 || hypura_open(&model, arguments[1], NULL, &error) || hypura_session_open(&session, model, &error)) {
        fprintf(stderr, "tools: %s\n", error.message);
        hypura_close(model);
        return 1;
    }
    struct text messages = {0};
    append_text(&messages, "[]");
    add_message(&messages, "user", arguments[2], strlen(arguments[2]));
    hypura_status status = HYPURA_OK;
    bool called = true;
    for (int turn = 0; !status && called && turn < 8; turn++)
        status = answer(session, &messages, &called, &error);
    if (status)
        fprintf(stderr, "tools: %s\n", error.message);
    free(messages.data);
    hypura_session_close(session);
    hypura_close(model);
    return status ? 1 : 0;
}
