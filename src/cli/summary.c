/* Texts about a model: a summary, and its speed. */
#include "cli/cli.h"

#include <string.h>

void print_summary(FILE *out, const hypura_model_info *model)
{
    char text[32];
    fprintf(out, "%s: %s (%s), %s in %u %s\n", model->name, model->title, model->architecture,
            size_text(text, sizeof text, (double)model->weight_bytes), model->files,
            model->files == 1 ? "file" : "files");
    fprintf(out, "  %u layers, embedding %u, vocabulary %u, trained for %u tokens\n", model->layers,
            model->embedding_width, model->vocabulary_size, model->trained_tokens);
    if (model->experts)
        fprintf(out, "  %u experts per layer, %u used per token\n", model->experts, model->experts_used);
}

const char *speed_text(char text[SPEED_TEXT], int decimals, double even, double speed)
{
    char other[SPEED_TEXT / 2];
    snprintf(other, sizeof other, "%.*f", decimals, even);
    snprintf(text, SPEED_TEXT, "%.*f", decimals, speed);
    if (strcmp(other, text) != 0)
        snprintf(text, SPEED_TEXT, "%s to %.*f", other, decimals, speed);
    return text;
}
