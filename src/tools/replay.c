#include "tools/replay.h"

#include "store/heap.h"
#include "store/policy.h"

#include <math.h>
#include <string.h>

size_t replay_policy_count(void)
{
    return policy_count() + 1;
}

const char *replay_policy_name(size_t index)
{
    return index < policy_count() ? policy_name(index) : "belady";
}

uint64_t replay_cycle_bytes(const struct trace *trace)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < trace->shape.layer_count; i++)
        bytes += trace->shape.layers[i].expert_bytes * trace->shape.used;
    return bytes;
}

uint64_t replay_total_bytes(const struct trace *trace)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < trace->shape.layer_count; i++)
        bytes += trace->shape.layers[i].expert_bytes * trace->shape.experts;
    return bytes;
}

/* ---- steps: the experts that one layer wants in one pass ----------------------------------------------------------
 */

struct steps {
    size_t count;
    size_t *first;   /* [count + 1] in items */
    uint32_t *items; /* layer * experts + expert, each once a step, in ascending order */
};

static hypura_status make_steps(struct steps *steps, const struct trace *trace, hypura_error *error)
{
    const struct trace_shape *shape = &trace->shape;
    size_t uses = 0;
    bool *seen = NULL;
    for (size_t i = 0; i < trace->pass_count; i++)
        uses +=
            (size_t)MIN((uint64_t)trace->passes[i].tokens * shape->used, (uint64_t)shape->experts) * shape->layer_count;
    steps->count = trace->pass_count * shape->layer_count;
    hypura_status status = ALLOCATE(&steps->first, steps->count + 1, "steps of the replay", error);
    if (!status)
        status = ALLOCATE(&steps->items, uses, "steps of the replay", error);
    if (!status)
        status = ALLOCATE(&seen, shape->experts, "steps of the replay", error);
    size_t at = 0, step = 0;
    for (size_t i = 0; !status && i < trace->pass_count; i++) {
        size_t choices = (size_t)trace->passes[i].tokens * shape->used;
        for (uint32_t layer = 0; layer < shape->layer_count; layer++) {
            const uint16_t *experts = trace->passes[i].experts + layer * choices;
            memset(seen, 0, shape->experts * sizeof *seen);
            for (size_t j = 0; j < choices; j++)
                seen[experts[j]] = true;
            steps->first[step++] = at;
            for (uint32_t expert = 0; expert < shape->experts; expert++) {
                if (seen[expert])
                    steps->items[at++] = layer * shape->experts + expert;
            }
        }
    }
    if (!status)
        steps->first[step] = at;
    memory_free(seen);
    return status;
}

static void free_steps(struct steps *steps)
{
    memory_free(steps->first);
    memory_free(steps->items);
}

/* ---- Belady ------------------------------------------------------------------------------------------------------ */

/* A policy that is told, with each access, when the next one is. */
struct belady {
    struct cache_policy policy;
    struct heap heap; /* by minus the step of the next use */
    double *next_use; /* of each use in steps->items, in steps */
    const struct steps *steps;
    size_t use; /* that comes next */
};

static void belady_access(struct cache_policy *policy, uint32_t item)
{
    struct belady *belady = (struct belady *)policy;
    heap_set(&belady->heap, item, -belady->next_use[belady->use++]);
}

static void belady_insert(struct cache_policy *policy, uint32_t item)
{
    heap_insert(&((struct belady *)policy)->heap, item);
}

static void belady_remove(struct cache_policy *policy, uint32_t item)
{
    heap_remove(&((struct belady *)policy)->heap, item);
}

static uint32_t belady_victim(struct cache_policy *policy, policy_may_go may_go, void *context)
{
    return heap_first(&((struct belady *)policy)->heap, may_go, context);
}

static void belady_destroy(struct cache_policy *policy)
{
    struct belady *belady = (struct belady *)policy;
    heap_destroy(&belady->heap);
    memory_free(belady->next_use);
    memory_free(belady);
}

static const struct cache_policy_operations belady_operations = {.name = "belady",
                                                                 .access = belady_access,
                                                                 .insert = belady_insert,
                                                                 .remove = belady_remove,
                                                                 .victim = belady_victim,
                                                                 .destroy = belady_destroy};

static hypura_status belady_create(struct cache_policy **out, const struct steps *steps, uint32_t count,
                                   hypura_error *error)
{
    struct belady *belady;
    hypura_status status = ALLOCATE(&belady, 1, "cache policy", error);
    if (status)
        return status;
    belady->policy.operations = &belady_operations;
    double *coming = NULL;
    status = heap_create(&belady->heap, count, error);
    if (!status)
        status = ALLOCATE(&belady->next_use, steps->first[steps->count], "cache policy", error);
    if (!status)
        status = ALLOCATE(&coming, count, "cache policy", error);
    if (status) {
        belady_destroy(&belady->policy);
        return status;
    }
    for (uint32_t i = 0; i < count; i++)
        coming[i] = INFINITY;
    for (size_t step = steps->count; step-- > 0;) {
        for (size_t use = steps->first[step]; use < steps->first[step + 1]; use++) {
            belady->next_use[use] = coming[steps->items[use]];
            coming[steps->items[use]] = (double)step;
        }
    }
    memory_free(coming);
    *out = &belady->policy;
    return HYPURA_OK;
}

/* ---- playing ----------------------------------------------------------------------------------------------------- */

struct player {
    const struct trace *trace;
    struct cache_policy *policy;
    bool *present, *in_use;
    uint64_t room;
};

static bool may_go(void *context, uint32_t item)
{
    return !((const struct player *)context)->in_use[item];
}

static uint64_t item_bytes(const struct player *player, uint32_t item)
{
    const struct trace_shape *shape = &player->trace->shape;
    return shape->layers[item / shape->experts].expert_bytes;
}

/* Brings an item in; when everything there is in use it passes without being kept. */
static void bring(struct player *player, uint32_t item)
{
    uint64_t bytes = item_bytes(player, item);
    while (player->room < bytes) {
        uint32_t victim = player->policy->operations->victim(player->policy, may_go, player);
        if (victim == NO_ITEM)
            return;
        player->policy->operations->remove(player->policy, victim);
        player->present[victim] = false;
        player->room += item_bytes(player, victim);
    }
    player->room -= bytes;
    player->present[item] = true;
    player->policy->operations->insert(player->policy, item);
}

/* Of a batch a policy that wants to know hears of each token. */
static bool tell_tokens(struct player *player, size_t step)
{
    const struct trace_shape *shape = &player->trace->shape;
    const struct trace_pass *pass = &player->trace->passes[step / shape->layer_count];
    const struct cache_policy_operations *operations = player->policy->operations;
    uint32_t layer = (uint32_t)(step % shape->layer_count);
    if (pass->tokens == 1 || !operations->token)
        return false;
    const uint16_t *experts = pass->experts + (size_t)layer * pass->tokens * shape->used;
    for (uint32_t token = pass->tokens - MIN(pass->tokens, POLICY_TOKENS); token < pass->tokens; token++) {
        const uint16_t *chosen = experts + (size_t)token * shape->used;
        operations->token(player->policy, layer * shape->experts + chosen[0]);
        for (uint32_t i = 0; i < shape->used; i++)
            operations->access(player->policy, layer * shape->experts + chosen[i]);
    }
    return true;
}

static void play_step(struct player *player, const uint32_t *items, size_t count, size_t step, bool counts,
                      struct replay_result *result)
{
    bool told = tell_tokens(player, step);
    for (size_t i = 0; i < count; i++) {
        player->in_use[items[i]] = true;
        if (!told)
            player->policy->operations->access(player->policy, items[i]);
        if (counts && player->present[items[i]]) {
            result->hits++;
        } else if (counts) {
            result->misses++;
            result->bytes_missed += item_bytes(player, items[i]);
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (!player->present[items[i]])
            bring(player, items[i]);
    }
    for (size_t i = 0; i < count; i++)
        player->in_use[items[i]] = false;
}

static void play(struct player *player, const struct steps *steps, size_t warm_passes, struct replay_result *result)
{
    uint32_t layers = player->trace->shape.layer_count;
    for (size_t step = 0; step < steps->count; step++) {
        play_step(player, steps->items + steps->first[step], steps->first[step + 1] - steps->first[step], step,
                  step / layers >= warm_passes, result);
        if ((step + 1) % layers == 0 && player->policy->operations->pass)
            player->policy->operations->pass(player->policy);
    }
}

static hypura_status create_policy(struct cache_policy **out, const char *name, const struct trace *trace,
                                   const struct steps *steps, uint32_t count, hypura_error *error)
{
    if (name && strcmp(name, "belady") == 0)
        return belady_create(out, steps, count, error);
    uint32_t *group_of;
    hypura_status status = ALLOCATE(&group_of, count, "cache policy", error);
    if (status)
        return status;
    for (uint32_t i = 0; i < count; i++)
        group_of[i] = i / trace->shape.experts;
    struct policy_shape shape = {count, trace->shape.layer_count, group_of};
    status = policy_create(out, name, &shape, error);
    memory_free(group_of);
    return status;
}

hypura_status replay_run(const struct trace *trace, const char *policy, uint64_t cache_bytes, size_t warm_passes,
                         struct replay_result *out, hypura_error *error)
{
    uint64_t items = (uint64_t)trace->shape.layer_count * trace->shape.experts;
    if (items >= NO_ITEM)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "a trace of %u layers with %u experts is too large",
                         trace->shape.layer_count, trace->shape.experts);
    uint32_t count = (uint32_t)items;
    struct player player = {.trace = trace, .room = cache_bytes};
    struct steps steps = {0};
    struct replay_result result = {0};
    hypura_status status = make_steps(&steps, trace, error);
    if (!status)
        status = create_policy(&player.policy, policy, trace, &steps, count, error);
    if (!status)
        status = ALLOCATE(&player.present, count, "replay", error);
    if (!status)
        status = ALLOCATE(&player.in_use, count, "replay", error);
    if (!status) {
        play(&player, &steps, warm_passes, &result);
        *out = result;
    }
    if (player.policy)
        player.policy->operations->destroy(player.policy);
    memory_free(player.present);
    memory_free(player.in_use);
    free_steps(&steps);
    return status;
}
