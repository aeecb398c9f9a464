/* The picture of where the weights are: a bar a layer. */
#include "cli/cli.h"

#include <string.h>

#define BAR_WIDTH 48

enum place { PLACE_GPU, PLACE_PINNED, PLACE_CACHED, PLACE_STORAGE, PLACE_COUNT };

static const char *const marks[PLACE_COUNT] = {"▓", "█", "▒", "·"};
static const char *const colours[PLACE_COUNT] = {"\033[35m", "\033[32m", "\033[36m", "\033[90m"};
static const char *const titles[PLACE_COUNT] = {"on GPU", "in RAM", "cached", "on disk"};

struct layer_bytes {
    uint64_t bytes[PLACE_COUNT];
};

static uint64_t all_bytes(const struct layer_bytes *layer)
{
    uint64_t bytes = 0;
    for (int place = 0; place < PLACE_COUNT; place++)
        bytes += layer->bytes[place];
    return bytes;
}

static enum place place_of(enum unit_state state)
{
    switch (state) {
    case UNIT_ON_GPU:
        return PLACE_GPU;
    case UNIT_PINNED:
        return PLACE_PINNED;
    case UNIT_CACHED:
        return PLACE_CACHED;
    default:
        return PLACE_STORAGE;
    }
}

static void draw_bar(FILE *out, const struct layer_bytes *layer, uint64_t widest, bool colour)
{
    uint64_t total = all_bytes(layer);
    int cells = (int)(((double)total / (double)widest) * BAR_WIDTH + 0.5);
    int drawn = 0;
    uint64_t so_far = 0;
    for (int place = 0; place < PLACE_COUNT; place++) {
        so_far += layer->bytes[place];
        int end = total ? (int)((double)so_far / (double)total * cells + 0.5) : 0;
        if (colour && end > drawn)
            fputs(colours[place], out);
        for (; drawn < end; drawn++)
            fputs(marks[place], out);
    }
    if (colour)
        fputs("\033[0m", out);
    fprintf(out, "%*s", BAR_WIDTH - drawn, "");
}

static void draw_row(FILE *out, const char *name, const struct layer_bytes *layer, uint64_t widest, bool colour)
{
    char text[32];
    uint64_t total = all_bytes(layer);
    fprintf(out, "  %-9s ", name);
    draw_bar(out, layer, widest, colour);
    fprintf(out, " %9s, %3.0f %% in memory\n", format_bytes(text, sizeof text, (double)total),
            total ? 100.0 * (double)(total - layer->bytes[PLACE_STORAGE]) / (double)total : 100.0);
}

void draw_tier_map(FILE *out, struct engine *engine)
{
    const struct model *model = engine_model(engine);
    struct store *store = engine_store(engine);
    uint32_t layers = model_parameters(model)->layers;
    struct layer_bytes *rows; /* one a layer, and one for what belongs to none */
    if (ALLOCATE(&rows, (size_t)layers + 1, "tier map", NULL))
        return;
    struct layer_bytes sum = {0};
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        size_t row = unit->layer < 0 ? layers : (size_t)unit->layer;
        uint64_t bytes[UNIT_STATES] = {0};
        store_count_bytes(store, u, bytes);
        for (enum unit_state state = 0; state < UNIT_STATES; state++) {
            rows[row].bytes[place_of(state)] += bytes[state];
            sum.bytes[place_of(state)] += bytes[state];
        }
    }
    uint64_t widest = 1;
    for (size_t row = 0; row <= layers; row++)
        widest = MAX(widest, all_bytes(&rows[row]));

    bool colour = is_terminal(out);
    fprintf(out, "\nWhere the weights are:");
    for (int place = 0; place < PLACE_COUNT; place++) {
        char text[32];
        if (place == PLACE_GPU && !engine_plan(engine)->gpu)
            continue;
        fprintf(out, "  %s%s%s %s %s", colour ? colours[place] : "", marks[place], colour ? "\033[0m" : "",
                titles[place], format_bytes(text, sizeof text, (double)sum.bytes[place]));
    }
    fputc('\n', out);
    draw_row(out, "embedding", &rows[layers], widest, colour);
    for (uint32_t layer = 0; layer < layers; layer++) {
        char name[24];
        snprintf(name, sizeof name, "layer %u", layer);
        draw_row(out, name, &rows[layer], widest, colour);
    }
    memory_free(rows);
}
