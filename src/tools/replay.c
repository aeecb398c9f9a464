#include "tools/replay.h"

#include "store/classes.h"
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

/* ---- steps: the experts that one layer uses in one batch -------------------------------------------------------- */

/* A batch: a pass, or a part of a long one. */
struct batch {
    const struct trace_pass *pass;
    uint32_t first, tokens; /* of the pass */
    bool last;              /* of the pass */
    bool counts;
};

struct steps {
    struct batch *batches; /* [batch_count] */
    size_t batch_count;
    size_t count;    /* batch_count * layers */
    size_t *first;   /* [count + 1] indices into items */
    uint32_t *items; /* layer * experts + expert, once per step, in ascending order */
};

static hypura_status make_batches(struct steps *steps, const struct trace *trace, const struct replay_how *how,
                                  hypura_error *error)
{
    const uint32_t most = how->chunk ? how->chunk : UINT32_MAX;
    size_t count = 0;
    for (size_t i = 0; i < trace->pass_count; i++)
        count += (trace->passes[i].tokens - 1) / most + 1;
    TRY(ALLOCATE(&steps->batches, count, "batches of the replay", error));
    for (size_t i = 0; i < trace->pass_count; i++) {
        const struct trace_pass *pass = &trace->passes[i];
        const bool counts = i >= how->warm_passes && (pass->tokens == 1 || !how->tokens_only);
        for (uint32_t first = 0, tokens; first < pass->tokens; first += tokens) {
            tokens = MIN(most, pass->tokens - first);
            steps->batches[steps->batch_count++] =
                (struct batch){pass, first, tokens, first + tokens == pass->tokens, counts};
        }
    }
    return HYPURA_OK;
}

/* The experts that a layer chose for a batch. */
static const uint16_t *choices_of(const struct trace_shape *shape, const struct batch *batch, uint32_t layer)
{
    return batch->pass->experts + ((size_t)layer * batch->pass->tokens + batch->first) * shape->used;
}

/* The first token of a batch whose experts a layer uses. */
static uint32_t first_token(const struct replay_how *how, const struct batch *batch, const struct trace_layer *layer)
{
    const bool late = how->narrows && layer->layer >= how->late_layer;
    return late ? batch->tokens - batch->last : 0;
}

static bool is_left_out(const struct replay_how *how, uint32_t item)
{
    return how->left_out && how->left_out[item];
}

static hypura_status make_steps(struct steps *steps, const struct trace *trace, const struct replay_how *how,
                                hypura_error *error)
{
    const struct trace_shape *shape = &trace->shape;
    size_t uses = 0;
    bool *seen = NULL;
    TRY(make_batches(steps, trace, how, error));
    for (size_t i = 0; i < steps->batch_count; i++)
        uses += (size_t)MIN((uint64_t)steps->batches[i].tokens * shape->used, (uint64_t)shape->experts) *
                shape->layer_count;
    steps->count = steps->batch_count * shape->layer_count;
    hypura_status status = ALLOCATE(&steps->first, steps->count + 1, "steps of the replay", error);
    if (!status)
        status = ALLOCATE(&steps->items, uses, "steps of the replay", error);
    if (!status)
        status = ALLOCATE(&seen, shape->experts, "steps of the replay", error);
    size_t at = 0, step = 0;
    for (size_t i = 0; !status && i < steps->batch_count; i++) {
        const struct batch *batch = &steps->batches[i];
        for (uint32_t layer = 0; layer < shape->layer_count; layer++) {
            const uint16_t *experts = choices_of(shape, batch, layer);
            memset(seen, 0, shape->experts * sizeof *seen);
            for (size_t j = (size_t)first_token(how, batch, &shape->layers[layer]) * shape->used;
                 j < (size_t)batch->tokens * shape->used; j++)
                seen[experts[j]] = true;
            steps->first[step++] = at;
            for (uint32_t expert = 0; expert < shape->experts; expert++) {
                const uint32_t item = layer * shape->experts + expert;
                if (seen[expert] && !is_left_out(how, item))
                    steps->items[at++] = item;
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
    memory_free(steps->batches);
    memory_free(steps->first);
    memory_free(steps->items);
}

/* ---- players --------------------------------------------------------------------------------------------------- */

/* The experts that share one size of slot. */
struct player_class {
    struct cache_policy *policy;
    uint32_t *items; /* [count] by their numbers in the policy */
    uint32_t count;
    uint32_t free;    /* free slots */
    uint32_t more[2]; /* slots that only passes of one token have: at once, and those with what experts come back to */
    uint32_t lent;    /* of these, now */
};

struct player {
    const struct trace *trace;
    const struct replay_how *how;
    struct player_class classes[MAX_CLASSES];
    uint32_t class_count;
    uint8_t *class_of; /* [items] the class of each item */
    uint32_t *local;   /* [items] the number of each item in its class's policy */
    bool *present, *in_use;
};

static const struct player_class *class_of(const struct player *player, uint32_t item)
{
    return &player->classes[player->class_of[item]];
}

/* ---- Belady ------------------------------------------------------------------------------------------------------ */

/* A policy that knows the next use of each item. */
struct belady {
    struct cache_policy policy;
    struct heap heap; /* keyed by minus the step of the next use */
    double *next_use; /* for each use in the class, the step of the item's next use */
    size_t use;       /* index of the next use */
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

static hypura_status belady_create(struct cache_policy **out, const struct player *player,
                                   const struct player_class *class, const struct steps *steps, hypura_error *error)
{
    struct belady *belady;
    double *coming = NULL;
    size_t uses = 0;
    for (size_t use = 0; use < steps->first[steps->count]; use++)
        uses += class_of(player, steps->items[use]) == class;
    TRY(ALLOCATE(&belady, 1, "cache policy", error));
    belady->policy.operations = &belady_operations;
    hypura_status status = heap_create(&belady->heap, class->count, error);
    if (!status)
        status = ALLOCATE(&belady->next_use, uses, "cache policy", error);
    if (!status)
        status = ALLOCATE(&coming, class->count, "cache policy", error);
    if (status) {
        belady_destroy(&belady->policy);
        return status;
    }
    for (uint32_t i = 0; i < class->count; i++)
        coming[i] = INFINITY;
    for (size_t step = steps->count; step-- > 0;) {
        for (size_t at = steps->first[step + 1]; at-- > steps->first[step];) {
            if (class_of(player, steps->items[at]) != class)
                continue;
            uint32_t local = player->local[steps->items[at]];
            belady->next_use[--uses] = coming[local];
            coming[local] = (double)step;
        }
    }
    memory_free(coming);
    *out = &belady->policy;
    return HYPURA_OK;
}

/* ---- replaying --------------------------------------------------------------------------------------------------- */

/* The context of may_go, which a policy asks about its items. */
struct asking {
    const struct player *player;
    const struct player_class *class;
};

static bool may_go(void *context, uint32_t local)
{
    const struct asking *asking = context;
    return !asking->player->in_use[asking->class->items[local]];
}

static void access_item(struct player *player, uint32_t item)
{
    struct cache_policy *policy = class_of(player, item)->policy;
    policy->operations->access(policy, player->local[item]);
}

/* false: everything in the slots is in use. */
static bool make_room(struct player *player, struct player_class *class)
{
    struct cache_policy *policy = class->policy;
    struct asking asking = {player, class};
    if (class->free)
        return true;
    uint32_t victim = policy->operations->victim(policy, may_go, &asking);
    if (victim == NO_ITEM)
        return false;
    policy->operations->remove(policy, victim);
    player->present[class->items[victim]] = false;
    class->free++;
    return true;
}

/* Gives an item a slot. false: there is none. */
static bool bring(struct player *player, uint32_t item)
{
    struct player_class *class = &player->classes[player->class_of[item]];
    if (!make_room(player, class))
        return false;
    class->free--;
    player->present[item] = true;
    class->policy->operations->insert(class->policy, player->local[item]);
    return true;
}

/* Between two passes, when nothing is in use. level: 0: no lent slots; else as in player_class.more. */
static void lend(struct player *player, uint32_t level)
{
    for (uint32_t c = 0; c < player->class_count; c++) {
        struct player_class *class = &player->classes[c];
        const uint32_t lent = level ? class->more[level - 1] : 0;
        for (; class->lent < lent; class->lent++)
            class->free++;
        for (; class->lent > lent && make_room(player, class); class->lent--)
            class->free--;
    }
}

/* For policies that track tokens, reports the accesses of a batch token by token. Returns whether it did. */
static bool tell_tokens(struct player *player, const struct batch *batch, uint32_t layer)
{
    const struct trace_shape *shape = &player->trace->shape;
    struct cache_policy *policy = class_of(player, layer * shape->experts)->policy;
    if (batch->tokens == 1 || !policy->operations->token)
        return false;
    const uint16_t *experts = choices_of(shape, batch, layer);
    uint32_t first = first_token(player->how, batch, &shape->layers[layer]);
    first = MAX(first, batch->tokens - MIN(batch->tokens, POLICY_TOKENS));
    for (uint32_t token = first; token < batch->tokens; token++) {
        const uint16_t *chosen = experts + (size_t)token * shape->used;
        policy->operations->token(policy, player->local[layer * shape->experts + chosen[0]]);
        for (uint32_t i = 0; i < shape->used; i++)
            if (!is_left_out(player->how, layer * shape->experts + chosen[i]))
                access_item(player, layer * shape->experts + chosen[i]);
    }
    return true;
}

/* More experts than slots take turns: those that were computed leave their slots to others. */
static void release(struct player *player, const uint32_t *items, size_t count)
{
    for (size_t i = 0; i < count; i++)
        player->in_use[items[i]] = false;
}

static void play_step(struct player *player, const struct batch *batch, uint32_t layer, const uint32_t *items,
                      size_t count, struct replay_result *result)
{
    const struct trace_shape *shape = &player->trace->shape;
    const bool told = tell_tokens(player, batch, layer), counted = batch->counts;
    for (size_t i = 0; i < count; i++) {
        player->in_use[items[i]] = true;
        if (!told)
            access_item(player, items[i]);
        if (counted && player->present[items[i]]) {
            result->hits++;
        } else if (counted) {
            result->misses++;
            result->bytes_missed += shape->layers[items[i] / shape->experts].expert_bytes;
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (player->present[items[i]] || bring(player, items[i]))
            continue;
        release(player, items, count);
        bring(player, items[i]);
    }
    release(player, items, count);
}

/* Passes of one token from the last prompt on: those after which experts come back, and after which they have their
 * room there. store/moves.c chooses them at a fixed point, and needs another one until they are there. Meanwhile they
 * take room in the cache. */
#define RETURN_PASSES 8u
#define THERE_PASSES 16u

static void bring_back(struct player *player, bool counted, struct replay_result *result)
{
    const uint32_t count = player->trace->shape.layer_count * player->trace->shape.experts;
    for (uint32_t item = 0; player->how->returns && item < count; item++)
        if (player->how->returns[item] && !player->present[item] && bring(player, item))
            result->returned += counted;
}

static void play(struct player *player, const struct steps *steps, struct replay_result *result)
{
    uint32_t layers = player->trace->shape.layer_count, passes = 0; /* of one token, in turn */
    for (size_t b = 0; b < steps->batch_count; b++) {
        const struct batch *batch = &steps->batches[b];
        const size_t *first = steps->first + b * layers;
        passes = batch->pass->tokens == 1 ? passes + 1 : 0;
        lend(player, passes > THERE_PASSES ? 2 : passes > 0);
        if (passes == RETURN_PASSES + 1)
            bring_back(player, batch->counts, result);
        for (uint32_t layer = 0; layer < layers; layer++)
            play_step(player, batch, layer, steps->items + first[layer], first[layer + 1] - first[layer], result);
        result->tokens += batch->counts ? batch->tokens : 0;
        for (uint32_t i = 0; i < player->class_count; i++) {
            struct cache_policy *policy = player->classes[i].policy;
            if (policy->operations->pass)
                policy->operations->pass(policy);
        }
    }
}

/* ---- a cache's slots and policies ----------------------------------------------------------------------------------
 */

/* Creates the policy of a class. A policy of the store sees only the layers of its class, numbered from 0. */
static hypura_status create_policy(struct player *player, struct player_class *class, const struct steps *steps,
                                   hypura_error *error)
{
    const char *name = player->how->policy;
    if (name && strcmp(name, "belady") == 0)
        return belady_create(&class->policy, player, class, steps, error);
    const struct trace_shape *shape = &player->trace->shape;
    uint32_t *group_of, *groups = NULL, group_count = 0, count = class->count;
    hypura_status status = ALLOCATE(&group_of, count, "cache policy", error);
    if (!status)
        status = ALLOCATE(&groups, shape->layer_count, "cache policy", error);
    for (uint32_t i = 0; !status && i < count; i++)
        groups[class->items[i] / shape->experts] = 1;
    for (uint32_t layer = 0; !status && layer < shape->layer_count; layer++)
        groups[layer] = groups[layer] ? group_count++ : 0;
    for (uint32_t i = 0; !status && i < count; i++)
        group_of[i] = groups[class->items[i] / shape->experts];
    if (!status)
        status = policy_create(&class->policy, name, &(struct policy_shape){count, group_count, group_of}, error);
    memory_free(groups);
    memory_free(group_of);
    return status;
}

/* Divides the cache into classes of slots as the store would. */
static hypura_status make_classes(struct player *player, struct sized_unit *units, uint32_t count,
                                  const struct steps *steps, hypura_error *error)
{
    struct size_class sizes[MAX_CLASSES];
    uint32_t targets[MAX_CLASSES] = {0}, more[2][MAX_CLASSES] = {0}, first = 0;
    const uint64_t lent = player->how->cache_bytes + player->how->lent_bytes;
    const struct trace_shape *shape = &player->trace->shape;
    for (uint32_t i = 0; i < count; i++)
        units[i] = (struct sized_unit){shape->layers[i / shape->experts].expert_bytes, i, true};
    player->class_count = classes_find(sizes, units, count, 1, 0, player->how->cache_bytes);
    classes_share_out(targets, sizes, player->class_count, player->how->cache_bytes);
    classes_share_out(more[0], sizes, player->class_count, lent);
    classes_share_out(more[1], sizes, player->class_count, lent + player->how->returning_bytes);
    for (uint32_t c = 0; c < player->class_count; c++) {
        struct player_class *class = &player->classes[c];
        class->free = targets[c];
        for (size_t i = 0; i < COUNT_OF(more); i++)
            class->more[i] = more[i][c] - MIN(more[i][c], targets[c]);
        class->count = sizes[c].unit_count;
        TRY(ALLOCATE(&class->items, class->count, "replay", error));
        for (uint32_t i = 0; i < class->count; i++) {
            uint32_t item = units[first + i].unit;
            class->items[i] = item;
            player->local[item] = i;
            player->class_of[item] = (uint8_t)c;
        }
        first += class->count;
    }
    hypura_status status = HYPURA_OK;
    for (uint32_t c = 0; !status && c < player->class_count; c++)
        status = create_policy(player, &player->classes[c], steps, error);
    return status;
}

static void free_player(struct player *player)
{
    for (uint32_t c = 0; c < player->class_count; c++) {
        struct player_class *class = &player->classes[c];
        if (class->policy)
            class->policy->operations->destroy(class->policy);
        memory_free(class->items);
    }
    memory_free(player->class_of);
    memory_free(player->local);
    memory_free(player->present);
    memory_free(player->in_use);
}

hypura_status replay_run(struct replay_result *out, const struct trace *trace, const struct replay_how *how,
                         hypura_error *error)
{
    uint64_t items = (uint64_t)trace->shape.layer_count * trace->shape.experts;
    if (items >= NO_ITEM)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "a trace of %u layers with %u experts is too large",
                         trace->shape.layer_count, trace->shape.experts);
    uint32_t count = (uint32_t)items;
    struct player player = {.trace = trace, .how = how};
    struct sized_unit *units = NULL;
    struct steps steps = {0};
    struct replay_result result = {0};
    hypura_status status = make_steps(&steps, trace, how, error);
    if (!status)
        status = ALLOCATE(&units, count, "replay", error);
    if (!status)
        status = ALLOCATE(&player.class_of, count, "replay", error);
    if (!status)
        status = ALLOCATE(&player.local, count, "replay", error);
    if (!status)
        status = ALLOCATE(&player.present, count, "replay", error);
    if (!status)
        status = ALLOCATE(&player.in_use, count, "replay", error);
    if (!status)
        status = make_classes(&player, units, count, &steps, error);
    if (!status) {
        play(&player, &steps, &result);
        *out = result;
    }
    free_player(&player);
    memory_free(units);
    free_steps(&steps);
    return status;
}
