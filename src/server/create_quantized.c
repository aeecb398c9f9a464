/* Quantizing for POST /api/create. The new file is kept among the blobs until it becomes a model. */
#include "core/durable.h"
#include "server/create.h"
#include "server/loaded.h"
#include "server/registry.h"
#include "server/server_private.h"
#include "tools/quantize.h"
#include "tools/quantize_recipe.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>

#define TELL_NANOSECONDS UINT64_C(250000000)

struct watch {
    struct exchange *exchange;
    bool stream;
    char status[160];
    uint64_t told;
};

static bool tell(void *context, const struct pieces_moment *moment)
{
    struct watch *watch = context;
    uint64_t now = clock_nanoseconds();
    if (!exchange_is_awaited(watch->exchange))
        return false;
    if (!watch->stream || (moment->done < moment->total && now - watch->told < TELL_NANOSECONDS))
        return true;
    watch->told = now;
    /* Ollama's clients show a progress bar only for events with a digest; the file has none yet. */
    return exchange_write_line(watch->exchange,
                               json_pack("{s:s, s:s, s:I, s:I}", "status",
                                         moment->verifying ? "verifying the quantized model" : watch->status, "digest",
                                         "0000000000000000000", "total", (json_int_t)moment->total, "completed",
                                         (json_int_t)moment->done));
}

/* Opens the source with as many threads as the memory budget has room for. Requests continue meanwhile. */
static hypura_status open_within_budget(struct quantize **out, uint64_t *lent, struct server *server,
                                        const char *source, const char *type, hypura_error *error)
{
    size_t cores = server->options.engine.threads ? server->options.engine.threads : thread_usable_cores();
    for (size_t threads = MAX(cores / 2, 1);; threads /= 2) {
        const struct quantize_options options = {.type = type, .threads = threads};
        char wanted[32];
        hypura_status status = quantize_open(out, source, &options, error);
        if (status)
            return status;
        *lent = quantize_memory(*out);
        enum loaded_room room = loaded_lend(server->models, *lent, 0);
        if (room == ROOM_NOW)
            return HYPURA_OK;
        quantize_close(*out);
        *out = NULL;
        if (threads == 1)
            return error_set(error, HYPURA_ERROR_MEMORY, "quantizing needs %s of the memory budget, which is %s",
                             format_bytes(wanted, sizeof wanted, (double)*lent),
                             room == ROOM_NEVER ? "smaller than that" : "in use: try again later");
    }
}

/* Writes the path of the new file: the same for the same request, so that the request can continue it. */
static hypura_status find_place(char *out, size_t room, const struct registry *registry, const char *name,
                                const char *source, const char *type, hypura_error *error)
{
    uint64_t key = fnv1a(FNV1A_START, name, strlen(name) + 1);
    key = fnv1a(fnv1a(key, source, strlen(source) + 1), type, strlen(type) + 1);
    if (snprintf(out, room, "%s/blobs", registry_folder(registry)) + 40 >= (int)room)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path of the model folder is too long");
    hypura_status status = durable_make_folder(out, error);
    size_t length = strlen(out);
    snprintf(out + length, room - length, "/" QUANTIZED_PREFIX "%016" PRIx64, key);
    return status;
}

static const char *type_of(const struct quantize *quantize)
{
    const struct quantize_tensor *largest = NULL;
    for (size_t i = 0; i < quantize_count(quantize); i++)
        if (!largest || quantize_at(quantize, i)->source->bytes > largest->source->bytes)
            largest = quantize_at(quantize, i);
    return largest ? tensor_type_info(largest->source->type)->name : "this";
}

hypura_status create_quantized(struct exchange *exchange, const struct new_quantized *wish, char *out, size_t room,
                               hypura_error *error)
{
    struct server *server = exchange_server(exchange);
    struct quantize *quantize = NULL;
    uint64_t lent = 0;
    if (!recipe_find(wish->type))
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "unsupported quantization type %.40s: \"hypura quantize --list\" lists the supported ones",
                         wish->type);
    registry_forget_blobs(server->registry);
    hypura_status status = find_place(out, room, server->registry, wish->name, wish->source, wish->type, error);
    if (status || (status = open_within_budget(&quantize, &lent, server, wish->source, wish->type, error)))
        return status;
    struct watch watch = {.exchange = exchange, .stream = wish->stream};
    snprintf(watch.status, sizeof watch.status, "quantizing %s model to %s", type_of(quantize),
             recipe_find(wish->type)->name);
    status = quantize_write(quantize, out, tell, &watch, error);
    quantize_close(quantize);
    memory_give_back();
    loaded_return(server->models, lent);
    return status;
}
