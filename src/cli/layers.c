/* hypura inspect --layers: a model's steps with their tensors, and where they run. */
#include "cli/inspect.h"

#include <string.h>

/* "attn_q.weight" from "blk.7.attn_q.weight", so that identical layers read the same. */
static const char *short_name(const char *name)
{
    const char *dot = strncmp(name, "blk.", 4) == 0 ? strchr(name + 4, '.') : NULL;
    return dot ? dot + 1 : name;
}

static void describe_list(struct text_buffer *out, const json_t *list)
{
    double bytes = 0;
    char text[32];
    size_t i, t;
    const json_t *step, *tensor;
    json_array_foreach(list, i, step)
    {
        text_add_format(out, "  %-14s %s\n", text_of(step, "step"), text_of(step, "does"));
        json_array_foreach(json_object_get(step, "tensors"), t, tensor)
        {
            text_add_format(out, "                   %-28s %-7s %-20s %10s  %s\n", short_name(text_of(tensor, "name")),
                            text_of(tensor, "type"), text_of(tensor, "shape"),
                            size_text(text, sizeof text, number_of(tensor, "bytes")), text_of(tensor, "tier"));
            bytes += number_of(tensor, "bytes");
        }
    }
    text_add_format(out, "  %zu steps, %s\n", json_array_size(list), size_text(text, sizeof text, bytes));
}

static void describe_layer(struct text_buffer *out, const json_t *layer)
{
    text_clear(out);
    text_add_format(out, ", on the %s\n", text_of(layer, "place"));
    describe_list(out, json_object_get(layer, "steps"));
}

/* Prints the layers of a group, such as "0 to 2, 4". */
static void print_numbers(const uint32_t *groups, uint32_t layers, uint32_t group)
{
    const char *between = "";
    for (uint32_t i = 0; i < layers; i++) {
        uint32_t last = i;
        if (groups[i] != group)
            continue;
        while (last + 1 < layers && groups[last + 1] == group)
            last++;
        printf(last > i ? "%s%u to %u" : "%s%u", between, i, last);
        between = ", ";
        i = last;
    }
}

/* Prints layers that read the same only once. */
static void print_groups(const json_t *list, uint32_t layers)
{
    struct text_buffer first = {0}, other = {0};
    uint32_t *groups; /* [layers] first layer of its group, plus 1; 0: no group yet */
    if (NEW_ARRAY(&groups, layers, "groups of layers", NULL))
        return;
    for (uint32_t i = 0; i < layers; i++) {
        if (groups[i])
            continue;
        uint32_t count = 0;
        describe_layer(&first, json_array_get(list, i));
        for (uint32_t j = i; j < layers; j++) {
            if (groups[j])
                continue;
            describe_layer(&other, json_array_get(list, j));
            bool same = !first.failed && !other.failed && strcmp(first.data, other.data) == 0;
            groups[j] = same ? i + 1 : 0;
            count += same;
        }
        printf(count > 1 ? "\nLayers " : "\nLayer ");
        print_numbers(groups, layers, i + 1);
        printf("%s%s", count > 1 ? ", each" : "", first.failed ? "\n" : first.data);
    }
    text_free(&first);
    text_free(&other);
    free_memory(groups);
}

static void print_part(const char *title, const json_t *list)
{
    struct text_buffer text = {0};
    describe_list(&text, list);
    printf("\n%s\n%s", title, text.failed ? "" : text.data);
    text_free(&text);
}

/* In the list, the prediction block comes after the layers. */
void print_layers(const json_t *json)
{
    const json_t *steps = json_object_get(json, "steps"), *layers = json_object_get(steps, "layers");
    const size_t count = (size_t)number_of(json, "layers");
    if (json_is_array(steps)) {
        struct text_buffer text = {0};
        const json_t *layer = json_array_get(steps, 0);
        describe_layer(&text, layer);
        printf("\nLayer %.0f%s", number_of(layer, "layer"), text.failed ? "\n" : text.data);
        text_free(&text);
        return;
    }
    print_part("Before the layers", json_object_get(steps, "before"));
    print_groups(layers, (uint32_t)count);
    print_part("After the layers", json_object_get(steps, "after"));
    if (json_array_size(layers) > count)
        print_part("Prediction block, on the CPU", json_object_get(json_array_get(layers, count), "steps"));
}
