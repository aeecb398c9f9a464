/* Draws where the weights are, with a bar per layer. */
#include "cli/cli.h"

#include <string.h>

#define MOST_ROWS 40 /* in models with more layers, neighbouring layers share a row */

static const char *const marks[2][MAP_PLACES] = {{"%", "#", "+", "."}, {"▓", "█", "▒", "·"}};
static const char *const colours[MAP_PLACES] = {"\033[35m", "\033[32m", "\033[36m", "\033[90m"};
static const char *const titles[MAP_PLACES] = {"on GPU", "in RAM", "cached", "on disk"};

static uint64_t all_bytes(const struct layer_places *layer)
{
    uint64_t bytes = 0;
    for (int place = 0; place < MAP_PLACES; place++)
        bytes += layer->bytes[place];
    return bytes;
}

static void draw_places(FILE *out, const struct layer_places *layer, uint64_t widest, int width)
{
    uint64_t total = all_bytes(layer);
    int cells = (int)(((double)total / (double)widest) * width + 0.5);
    int drawn = 0;
    uint64_t so_far = 0;
    bool colour = use_colour(out), blocks = use_blocks();
    for (int place = 0; place < MAP_PLACES; place++) {
        so_far += layer->bytes[place];
        int end = total ? (int)((double)so_far / (double)total * cells + 0.5) : 0;
        if (colour && end > drawn)
            fputs(colours[place], out);
        for (; drawn < end; drawn++)
            fputs(marks[blocks][place], out);
    }
    if (colour)
        fputs("\033[0m", out);
    fprintf(out, "%*s", width - drawn, "");
}

static void draw_row(FILE *out, const char *name, const struct layer_places *layer, uint64_t widest)
{
    char text[32];
    uint64_t total = all_bytes(layer);
    fprintf(out, "  %-12s ", name);
    draw_places(out, layer, widest, MIN(text_width(out) - 43, 48));
    fprintf(out, " %9s, %3.0f %% in memory\n", size_text(text, sizeof text, (double)total),
            total ? 100.0 * (double)(total - layer->bytes[MAP_STORAGE]) / (double)total : 100.0);
}

static void add_places(struct layer_places *sum, const struct layer_places *layer)
{
    for (int place = 0; place < MAP_PLACES; place++)
        sum->bytes[place] += layer->bytes[place];
}

void draw_places_of_layers(FILE *out, const struct layer_places *rows, uint32_t layers)
{
    uint32_t each = (layers + MOST_ROWS - 1) / MOST_ROWS;
    struct layer_places sum = rows[layers];
    uint64_t widest = MAX(all_bytes(&rows[layers]), (uint64_t)1);
    for (uint32_t first = 0; first < layers; first += each) {
        struct layer_places row = {0};
        for (uint32_t layer = first; layer < MIN(first + each, layers); layer++)
            add_places(&row, &rows[layer]);
        widest = MAX(widest, all_bytes(&row));
        add_places(&sum, &row);
    }
    for (int place = 0; place < MAP_PLACES; place++) {
        char text[32];
        if (place == MAP_GPU && !sum.bytes[place])
            continue;
        fprintf(out, "  %s%s%s %s %s", use_colour(out) ? colours[place] : "", marks[use_blocks()][place],
                use_colour(out) ? "\033[0m" : "", titles[place],
                size_text(text, sizeof text, (double)sum.bytes[place]));
    }
    fputc('\n', out);
    draw_row(out, "embedding", &rows[layers], widest);
    for (uint32_t first = 0; first < layers; first += each) {
        char name[32];
        struct layer_places row = {0};
        uint32_t last = MIN(first + each, layers) - 1;
        for (uint32_t layer = first; layer <= last; layer++)
            add_places(&row, &rows[layer]);
        if (first == last)
            snprintf(name, sizeof name, "layer %u", first);
        else
            snprintf(name, sizeof name, "layers %u-%u", first, last);
        draw_row(out, name, &row, widest);
    }
}

void draw_tier_map(FILE *out, hypura_model *model)
{
    uint32_t layers = hypura_get_info(model)->layers;
    size_t count = (size_t)layers + 1;
    hypura_places *places = NULL;
    struct layer_places *rows = NULL;
    if (!NEW_ARRAY(&places, count, "tier map", NULL) && !NEW_ARRAY(&rows, count, "tier map", NULL)) {
        hypura_get_places(model, places, count);
        for (size_t i = 0; i < count; i++)
            rows[i] = (struct layer_places){.bytes = {[MAP_GPU] = places[i].gpu_bytes,
                                                      [MAP_MEMORY] = places[i].ram_bytes,
                                                      [MAP_CACHED] = places[i].cached_bytes,
                                                      [MAP_STORAGE] = places[i].storage_bytes}};
        fprintf(out, "\nWhere the weights are:");
        draw_places_of_layers(out, rows, layers);
    }
    free_memory(places);
    free_memory(rows);
}
