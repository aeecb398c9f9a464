/* quantize_errors SOURCE A B [IMPORTANCE]: compares two files quantised from the same source. Prints one line per type:
 * the number of tensors, how many have the same bytes, and the weighted squared errors of both files:
 *
 *     TYPE tensors same A's B's A's-plain B's-plain
 */
#include "compute/compute.h"
#include "format/format.h"
#include "tools/importance.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct sums {
    int tensors, same;
    double weighted[2], plain[2];
};

static void check(hypura_status status, const hypura_error *error)
{
    if (status) {
        fprintf(stderr, "quantize_errors: %s\n", error->message);
        exit(1);
    }
}

static uint8_t *load(const struct gguf *file, const struct gguf_tensor *tensor)
{
    uint8_t *data = malloc(tensor->bytes);
    int opened = open(gguf_file_path(file, tensor->file), O_RDONLY);
    if (!data || opened < 0 || pread(opened, data, tensor->bytes, (off_t)tensor->offset) != (ssize_t)tensor->bytes)
        exit(1);
    close(opened);
    return data;
}

static float *floats(const struct gguf_tensor *tensor, const uint8_t *data, size_t count)
{
    float *out = malloc(count * sizeof *out);
    if (!out)
        exit(1);
    compute_dequantize(tensor->type, data, out, count);
    return out;
}

static void compare(struct gguf *files[3], const struct gguf_tensor *tensors[3], const struct importance *importance,
                    struct sums *sums)
{
    hypura_error error = {0};
    size_t columns = tensors[0]->dimensions[0], height = tensors[0]->dimensions[1], experts = tensors[0]->dimensions[2];
    size_t count = columns * height * experts;
    const char *name = tensors[0]->name.data;
    uint8_t *data[3];
    float *values[3], *weights = NULL;
    for (int i = 0; i < 3; i++) {
        data[i] = load(files[i], tensors[i]);
        values[i] = floats(tensors[i], data[i], count);
    }
    if (importance && importance_size(importance, name) == columns * experts) {
        weights = malloc(columns * experts * sizeof *weights);
        check(weights ? importance_read(importance, name, weights, &error) : HYPURA_ERROR_MEMORY, &error);
    }
    sums->tensors++;
    sums->same += memcmp(data[1], data[2], tensors[1]->bytes) == 0;
    for (size_t i = 0; i < count; i++)
        for (int f = 0; f < 2; f++) {
            double off = (double)values[f + 1][i] - (double)values[0][i];
            sums->plain[f] += off * off;
            sums->weighted[f] +=
                off * off * (weights ? (double)weights[i / columns / height * columns + i % columns] : 1);
        }
    for (int i = 0; i < 3; i++) {
        free(data[i]);
        free(values[i]);
    }
    free(weights);
}

int main(int count, char **arguments)
{
    struct gguf *files[3];
    struct importance *importance = NULL;
    static struct sums sums[TENSOR_TYPE_COUNT];
    hypura_error error = {0};
    if (count < 4)
        return 2;
    for (int i = 0; i < 3; i++)
        check(gguf_open(&files[i], arguments[1 + i], &error), &error);
    if (count > 4)
        check(importance_open(&importance, arguments[4], &error), &error);
    for (size_t i = 0; i < gguf_tensor_count(files[0]); i++) {
        const struct gguf_tensor *tensors[3] = {gguf_tensor_at(files[0], i)};
        for (int f = 1; f < 3; f++)
            tensors[f] = gguf_tensor_find(files[f], tensors[0]->name.data);
        if (!tensors[1] || !tensors[2] || tensors[1]->type != tensors[2]->type ||
            tensors[1]->bytes != tensors[2]->bytes) {
            printf("%s is not of one type in both: %s %s\n", tensors[0]->name.data,
                   tensors[1] ? tensor_type_info(tensors[1]->type)->name : "absent",
                   tensors[2] ? tensor_type_info(tensors[2]->type)->name : "absent");
            return 1;
        }
        if (compute_supports(tensors[0]->type) && compute_supports(tensors[1]->type))
            compare(files, tensors, importance, &sums[tensors[1]->type]);
    }
    for (int t = 0; t < TENSOR_TYPE_COUNT; t++)
        if (sums[t].tensors)
            printf("%s %d %d %.9g %.9g %.9g %.9g\n", tensor_type_info((uint32_t)t)->name, sums[t].tensors, sums[t].same,
                   sums[t].weighted[0], sums[t].weighted[1], sums[t].plain[0], sums[t].plain[1]);
    importance_close(importance);
    for (int i = 0; i < 3; i++)
        gguf_close(files[i]);
    return 0;
}
