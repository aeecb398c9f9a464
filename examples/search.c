/* Sorts the lines of standard input by how near they are in meaning: search MODEL.gguf "what to look for". Any model
 * can make embeddings; models trained for them make better ones. */
#include <hypura/hypura.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct found {
    char *line;
    float nearness;
};

/* Embeddings have length 1, so the dot product of two is the cosine of their angle. */
static hypura_status embed(hypura_model *model, hypura_session *session, const char *text, float *out,
                           hypura_error *error)
{
    int32_t *tokens;
    size_t count;
    hypura_status status = hypura_tokenize(model, text, strlen(text), HYPURA_ADD_SPECIAL, &tokens, &count, error);
    if (status)
        return status;
    status = hypura_embed(session, tokens, count, out, error);
    hypura_free(tokens);
    return status;
}

static int by_nearness(const void *a, const void *b)
{
    float x = ((const struct found *)a)->nearness, y = ((const struct found *)b)->nearness;
    return (x < y) - (x > y);
}

int main(int count, char **arguments)
{
    hypura_model *model = NULL;
    hypura_session *session = NULL;
    hypura_error error = {.message = "name a model and what to look for"};
    if (count < 3 || hypura_open(&model, arguments[1], NULL, &error) || hypura_session_open(&session, model, &error)) {
        fprintf(stderr, "search: %s\n", error.message);
        hypura_close(model);
        return 1;
    }
    uint32_t width = hypura_get_info(model)->embedding_width;
    float *wanted = calloc(width, sizeof *wanted), *seen = calloc(width, sizeof *seen);
    struct found *all = NULL;
    size_t lines = 0;
    char line[4096];
    hypura_status status = wanted && seen ? embed(model, session, arguments[2], wanted, &error) : HYPURA_ERROR_MEMORY;
    while (!status && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        status = embed(model, session, line, seen, &error);
        struct found *more = realloc(all, (lines + 1) * sizeof *all);
        if (status || !more)
            break;
        all = more;
        all[lines] = (struct found){.line = strdup(line)};
        for (uint32_t i = 0; i < width; i++)
            all[lines].nearness += wanted[i] * seen[i];
        lines++;
    }
    if (status)
        fprintf(stderr, "search: %s\n", error.message);
    if (lines)
        qsort(all, lines, sizeof *all, by_nearness);
    for (size_t i = 0; i < lines; i++) {
        printf("%.3f %s\n", (double)all[i].nearness, all[i].line);
        free(all[i].line);
    }
    free(all);
    free(wanted);
    free(seen);
    hypura_session_close(session);
    hypura_close(model);
    return status ? 1 : 0;
}
