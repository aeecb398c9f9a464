/* A conversation: chat MODEL.gguf. Build: cc chat.c $(pkg-config --cflags --libs hypura) */
#include "json.h"

#include <hypura/hypura.h>

static bool print(void *answer, const hypura_event *event)
{
    if (event->kind == HYPURA_EVENT_CONTENT) {
        fwrite(event->text, 1, event->size, stdout);
        append(answer, event->text, event->size);
    }
    return fflush(stdout) == 0; /* false ends the answer */
}

int main(int count, char **arguments)
{
    hypura_model *model = NULL;
    hypura_session *session = NULL;
    hypura_error error = {.message = "name a model"};
    if (count < 2 || hypura_open(&model, arguments[1], NULL, &error) || hypura_session_open(&session, model, &error))
        return fprintf(stderr, "chat: %s\n", error.message), 1;
    hypura_sampling sampling = {.struct_size = sizeof sampling};
    hypura_default_sampling(&sampling);
    sampling.temperature = 0.2f;
    struct text messages = {0}, answer = {0};
    append_text(&messages, "[]");
    for (char line[4096]; fgets(line, sizeof line, stdin); putchar('\n')) {
        add_message(&messages, "user", line, strcspn(line, "\n"));
        hypura_chat chat = {.struct_size = sizeof chat, .messages = messages.data};
        hypura_request request = {
            .struct_size = sizeof request, .chat = &chat, .sampling = &sampling, .max_tokens = 200};
        answer.size = 0;
        if (hypura_answer(session, &request, print, &answer, &error))
            fprintf(stderr, "chat: %s\n", error.message);
        add_message(&messages, "assistant", answer.data, answer.size);
    }
    free(messages.data);
    free(answer.data);
    hypura_session_close(session);
    hypura_close(model);
}
