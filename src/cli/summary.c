/* A summary of a model. */
#include "cli/cli.h"

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
