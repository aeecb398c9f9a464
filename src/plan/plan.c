/* Makes a plan from a budget: subtracts everything that is not weights, and places the weights in the rest. */
#include "plan/plan_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Context and chunk if the request leaves them open. The planner halves them until enough is left for the weights. */
#define DEFAULT_POSITIONS 4096u
#define LEAST_POSITIONS 256u
#define DEFAULT_CHUNK 512u
#define LONGEST_CHUNK 4096u
#define LEAST_CHUNK 8u

/* The ring can take what the drive reads for this long, while attention, norms or sampling use no weights from it. */
#define LOOKAHEAD_SECONDS 10e-3

/* Without huge pages, page tables take 1/512 of the mapped memory. The allocator's slack is about as large. */
#define RESERVE_SHARE 256u

const char *plan_mode_name(enum plan_mode mode)
{
    static const char *const names[] = {"full-resident", "expert-streaming", "dense-ffn-streaming", "full-streaming"};
    return (size_t)mode < COUNT_OF(names) ? names[mode] : "unknown";
}

const char *plan_bound_name(enum plan_bound bound)
{
    static const char *const names[] = {"compute", "memory", "disk", "gpu"};
    return (size_t)bound < COUNT_OF(names) ? names[bound] : "unknown";
}

void plan_free(struct plan *plan)
{
    if (!plan)
        return;
    memory_free(plan->tiers);
    memory_free(plan->in_ring);
    memory_free(plan->cuts);
    memory_free(plan->groups);
    memory_free(plan->streams);
    memory_free(plan->elsewhere);
    plan_gpu_free(plan->gpu);
    memory_free(plan);
}

bool plan_holds_experts(const struct plan *plan)
{
    return plan->expert_cache_bytes >= plan->expert_bytes;
}

bool plan_in_ring(const struct plan *plan, unit_number unit)
{
    return unit < plan->unit_count && plan->in_ring[unit];
}

uint64_t plan_bytes_on_storage(const struct plan *plan, unit_number unit, uint64_t bytes)
{
    if (plan->tiers[unit] != TIER_STORAGE)
        return 0;
    if (!plan->in_ring[unit])
        return bytes;
    const struct plan_cut *cut = &plan->cuts[unit];
    uint64_t sum = 0;
    for (uint32_t i = 0; i < cut->count; i++)
        sum += plan->streams[cut->first + i] ? MIN(cut->bytes, bytes - i * cut->bytes) : 0;
    return sum;
}

/* One choice of context and chunk, and the memory that it needs in addition to weights. */
struct setting {
    uint32_t positions, chunk;
    uint64_t kv_positions; /* of all sequences */
    uint64_t kv, scratch;
};

struct planner {
    const struct plan_table *table;
    const struct hardware *hardware;
    const struct plan_request *request;
    uint64_t budget, overhead, reserve;
    uint64_t code_on_top;
    uint64_t smallest_capacity, resident_capacity;
    uint32_t wanted_chunk, needed_chunk;
    struct setting least; /* the cheapest allowed */
};

static uint32_t sequences(const struct plan_request *request)
{
    return MAX(request->sequences, 1u);
}

static uint64_t all_kv_positions(const struct plan_request *request, uint32_t positions)
{
    return (uint64_t)positions * sequences(request);
}

/* Devices may have less room. */
static uint64_t most_kv_positions(const struct plan_request *request, uint32_t positions)
{
    const uint64_t all = all_kv_positions(request, positions);
    return request->gpu ? MIN(all, request->gpu->kv_positions) : all;
}

/* Room for one whole context, so that a sequence can always fill its own. More memory is worth more to experts. */
static uint64_t least_kv_positions(const struct plan_request *request, uint32_t positions)
{
    uint64_t most = most_kv_positions(request, positions);
    if (!request->working_set.shared_kv_bytes)
        return most;
    return MIN(most, align_up(positions, PLAN_KV_BLOCK));
}

static uint64_t fewer_kv_positions(const struct plan_request *request, uint32_t positions, uint64_t kv_positions)
{
    return MAX(align_up(kv_positions / 2, PLAN_KV_BLOCK), least_kv_positions(request, positions));
}

/* The bytes of the KV cache if every sequence has room for a whole context. */
static uint64_t whole_kv(const struct plan_request *request, uint32_t positions)
{
    const struct plan_working_set *set = &request->working_set;
    return set->kv_bytes ? set->kv_bytes(set->context, positions, sequences(request), request->kv_type) : 0;
}

static struct setting make_setting(const struct plan_request *request, uint32_t positions, uint64_t kv_positions,
                                   uint32_t chunk)
{
    const struct plan_working_set *set = &request->working_set;
    struct setting setting = {.positions = positions, .kv_positions = kv_positions, .chunk = chunk};
    setting.kv = whole_kv(request, positions);
    if (set->shared_kv_bytes && kv_positions < all_kv_positions(request, positions))
        setting.kv = MIN(setting.kv, set->shared_kv_bytes(set->context, positions, sequences(request), kv_positions,
                                                          request->kv_type));
    if (set->scratch_bytes)
        setting.scratch = set->scratch_bytes(set->context, chunk, positions);
    return setting;
}

static uint64_t add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static void set_budget(struct planner *planner, uint64_t budget)
{
    const struct plan_request *request = planner->request;
    bool small = budget < PLAN_SMALL_BUDGET;
    planner->budget = budget;
    planner->code_on_top = small ? MIN(request->code, request->overhead) : 0;
    planner->overhead = request->overhead - planner->code_on_top;
    planner->reserve = small ? 0 : budget / RESERVE_SHARE;
}

/* The part of the budget for weights, KV cache and scratch. */
static uint64_t available(const struct planner *planner)
{
    uint64_t taken = add(planner->overhead, planner->reserve);
    return planner->budget > taken ? planner->budget - taken : 0;
}

static uint64_t for_weights(const struct planner *planner, const struct setting *setting)
{
    uint64_t taken = add(setting->kv, setting->scratch), room = available(planner);
    return room > taken ? room - taken : 0;
}

static uint32_t most_positions(const struct planner *planner)
{
    if (planner->request->positions)
        return planner->request->positions;
    uint32_t trained = planner->table->context ? planner->table->context : DEFAULT_POSITIONS;
    return MIN(trained, DEFAULT_POSITIONS);
}

static uint32_t least_positions(const struct planner *planner)
{
    return planner->request->positions ? planner->request->positions : MIN(most_positions(planner), LEAST_POSITIONS);
}

/* During a chunk, the experts of the current and the next layer pass through this many slots of the expert cache. The
 * other slots still have their experts when the next chunk comes. */
#define PASSING_EXPERTS 8u

/* The bytes that a long chunk reads: weights without room, and experts that left the cache for those of other layers.
 */
static double chunk_bytes(const struct planner *planner)
{
    uint64_t room = available(planner), all = 0, largest = 0;
    if (planner->resident_capacity <= room)
        return 0;
    uint64_t missing = planner->resident_capacity - room;
    for (uint32_t i = 0; i < planner->table->count; i++) {
        const struct plan_unit *unit = &planner->table->units[i];
        if (unit->priority != PRIORITY_EXPERT)
            continue;
        all += unit->footprint;
        largest = MAX(largest, unit->footprint);
    }
    uint64_t cache = all > missing ? all - missing : 0;
    return (double)(missing + MIN(cache, PASSING_EXPERTS * largest));
}

/* A chunk reads these bytes once, however long it is. It is long enough if computing takes twice as long as reading,
 * because neither is ever quite even. */
static uint32_t needed_chunk(const struct planner *planner)
{
    const struct hardware *hardware = planner->hardware;
    const struct plan_table *table = planner->table;
    double used = table->experts ? (double)table->experts_used / table->experts : 0, work = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        /* Only a prompt's last token is multiplied by the output matrix. */
        if (table->units[i].priority <= PRIORITY_EXPERT && table->units[i].priority != PRIORITY_OUTPUT)
            work += (double)table->units[i].elements * (table->units[i].priority == PRIORITY_EXPERT ? used : 1);
    }
    double tokens = 2 * chunk_bytes(planner) / hardware->storage.bytes_per_second * hardware->multiply_adds_per_second;
    uint32_t chunk = LEAST_CHUNK;
    while (chunk < LONGEST_CHUNK && chunk * work < tokens)
        chunk *= 2;
    return chunk;
}

/* A batch longer than the context would gain nothing. */
static uint32_t most_chunk(const struct planner *planner, uint32_t positions)
{
    return planner->request->chunk ? planner->request->chunk : MIN(planner->wanted_chunk, MAX(positions, LEAST_CHUNK));
}

static uint32_t least_chunk(const struct planner *planner)
{
    return planner->request->chunk ? planner->request->chunk : LEAST_CHUNK;
}

/* The smallest budget with which the cheapest setting runs. If "from" is at least PLAN_SMALL_BUDGET, so is the result,
 * because such budgets include code. */
static uint64_t smallest_budget(struct planner *planner, uint64_t from)
{
    uint64_t working = add(add(planner->smallest_capacity, planner->least.kv), planner->least.scratch);
    set_budget(planner, 0);
    uint64_t needed = add(working, planner->overhead);
    if (from < PLAN_SMALL_BUDGET && needed < PLAN_SMALL_BUDGET)
        return needed;
    set_budget(planner, PLAN_SMALL_BUDGET);
    needed = MAX(add(working, planner->overhead), PLAN_SMALL_BUDGET - PLAN_SMALL_BUDGET / RESERVE_SHARE);
    /* The least B with B - B / RESERVE_SHARE >= needed. */
    uint64_t budget = add(needed, needed / (RESERVE_SHARE - 1));
    while (budget != UINT64_MAX && budget - budget / RESERVE_SHARE < needed)
        budget++;
    while (budget > PLAN_SMALL_BUDGET && budget - 1 - (budget - 1) / RESERVE_SHARE >= needed)
        budget--;
    return MAX(budget, PLAN_SMALL_BUDGET);
}

/* To keep all weights in memory, the planner accepts a shorter context and shorter batches, down to these. */
#define RESIDENT_POSITIONS 2048u
#define RESIDENT_CHUNK 128u

/* Whether a setting leaves enough for the weights. If weights stream, memory for them saves reads. Then the KV cache
 * may take an eighth of the room and the scratch a sixteenth, unless nothing smaller is allowed. The scratch may take
 * an eighth too if a shorter chunk would wait for the drive. */
static bool acceptable(const struct planner *planner, const struct setting *setting, bool resident)
{
    uint64_t weights = for_weights(planner, setting), room = available(planner);
    bool last_positions = setting->positions == least_positions(planner) &&
                          setting->kv_positions == least_kv_positions(planner->request, setting->positions);
    bool last_chunk = setting->chunk == least_chunk(planner);
    if (resident)
        return weights >= planner->resident_capacity &&
               setting->positions >= MIN(RESIDENT_POSITIONS, most_positions(planner)) &&
               setting->chunk >= MIN(RESIDENT_CHUNK, most_chunk(planner, setting->positions));
    return weights >= planner->smallest_capacity && (last_positions || setting->kv <= room / 8) &&
           (last_chunk || setting->scratch <= room / (setting->chunk <= planner->needed_chunk ? 8 : 16));
}

/* Chooses the longest acceptable chunk. false: there is none. */
static bool choose_chunk(const struct planner *planner, uint32_t positions, uint64_t kv_positions, bool resident,
                         struct setting *out)
{
    for (uint32_t chunk = most_chunk(planner, positions);; chunk = MAX(chunk / 2, least_chunk(planner))) {
        *out = make_setting(planner->request, positions, kv_positions, chunk);
        if (acceptable(planner, out, resident))
            return true;
        if (chunk == least_chunk(planner))
            return false;
    }
}

/* Chooses the longest context, then the most positions of all sequences, then the longest chunk. */
static bool choose_setting(const struct planner *planner, bool resident, struct setting *out)
{
    const struct plan_request *request = planner->request;
    for (uint32_t positions = most_positions(planner);; positions = MAX(positions / 2, least_positions(planner))) {
        for (uint64_t kv = most_kv_positions(request, positions);; kv = fewer_kv_positions(request, positions, kv)) {
            if (choose_chunk(planner, positions, kv, resident, out))
                return true;
            if (kv == least_kv_positions(request, positions))
                break;
        }
        if (positions == least_positions(planner))
            return false;
    }
}

/* The cache of rows takes at most this part of the memory for weights. */
#define ROW_CACHE_PART 128u
#define ROW_CACHE_MOST ((uint64_t)64 << 20)

/* If matrices stream, each byte of a cache is one more byte to read per token, while a row is only a small read. So
 * only this many rows of the embedding are cached. */
#define STREAMING_ROWS 64u

/* Takes room for the caches of rows from the capacity for weights. */
static void share_rows(struct plan *plan, const struct plan_table *table, uint64_t smallest, uint64_t resident,
                       uint64_t *capacity)
{
    bool fits = *capacity >= resident, matrices_stream = *capacity < plan_dense_capacity(table);
    uint64_t spare = *capacity - (fits ? resident : smallest), most = MIN(*capacity / ROW_CACHE_PART, ROW_CACHE_MOST);
    for (uint32_t i = 0; i < table->row_count; i++) {
        const struct plan_unit *unit = &table->units[table->rows[i].unit];
        struct plan_rows *rows = &plan->tables[plan->table_count++];
        *rows = table->rows[i];
        if (unit->priority == PRIORITY_TABLE || (unit->priority == PRIORITY_ROWS && !fits))
            rows->cache_bytes = MIN(MIN(most, unit->footprint), spare);
        if (unit->priority == PRIORITY_ROWS && matrices_stream)
            rows->cache_bytes = MIN(rows->cache_bytes, STREAMING_ROWS * rows->row_bytes);
        spare -= rows->cache_bytes;
        plan->row_cache_bytes += rows->cache_bytes;
    }
    *capacity -= plan->row_cache_bytes;
}

static void describe(struct plan *plan, const struct plan_table *table, const struct plan_gpu *gpu)
{
    uint64_t weights = 0, tables = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        enum plan_priority priority = table->units[i].priority;
        bool table_of_rows = priority == PRIORITY_TABLE;
        weights +=
            priority == PRIORITY_UNUSED || priority == PRIORITY_GPU || table_of_rows ? 0 : table->units[i].footprint;
        tables += table_of_rows ? table->units[i].footprint : 0;
    }
    uint64_t held = plan->resident_bytes + plan->pool_bytes;
    const char *the = gpu ? "The other weights" : "The weights", *every = gpu ? "All other weights" : "All weights";
    char all[32], room[32], cache[32], stream[32];
    format_bytes(all, sizeof all, (double)weights);
    format_bytes(room, sizeof room, (double)held);
    format_bytes(cache, sizeof cache, (double)plan->expert_cache_bytes);
    format_bytes(stream, sizeof stream, plan->predicted_bytes_per_token);
    char experts[160] = "";
    if (plan->expert_cache_bytes)
        snprintf(experts, sizeof experts,
                 "experts are read when the router chooses them, through a cache of %s (%.0f %% of all)%s", cache,
                 100.0 * (double)plan->expert_cache_bytes / (double)MAX(plan->expert_bytes, (uint64_t)1),
                 plan->expert_cache_bytes < plan->expert_cycle_bytes ? ", less than one token uses" : "");
    switch (plan->mode) {
    case PLAN_FULL_RESIDENT:
        snprintf(plan->reason, sizeof plan->reason, "%s (%s) fit in the budget%s%s.", every, all,
                 plan->embedding_rows ? ", except the token embedding, which is read by rows" : "",
                 plan->expert_cache_bytes == 0 ? ""
                 : gpu && gpu->moves           ? "; experts are in a cache, so that they can move to the GPU and back"
                                               : "; experts are in a cache, where the GPU reads them");
        break;
    case PLAN_EXPERT_STREAMING:
        snprintf(plan->reason, sizeof plan->reason,
                 "%s take %s; %s fit in memory. Everything that every token uses stays; %s.", the, all, room, experts);
        break;
    case PLAN_DENSE_STREAMING:
        snprintf(plan->reason, sizeof plan->reason,
                 "%s take %s; %s fit in memory. Attention stays; %s are read for every token%s%s.", the, all, room,
                 stream, *experts ? "; " : "", experts);
        break;
    case PLAN_FULL_STREAMING:
        snprintf(plan->reason, sizeof plan->reason,
                 "%s take %s; %s fit in memory, too little even for attention. %s are read for every token%s%s.", the,
                 all, room, stream, *experts ? "; " : "", experts);
        break;
    }
    size_t used = strlen(plan->reason);
    if (tables)
        snprintf(plan->reason + used, sizeof plan->reason - used,
                 " From a table with a further %s, only rows are read.", format_bytes(all, sizeof all, (double)tables));
}

/* A plan may take more memory than is free, if the request asks for that. Then the system may swap or end the process.
 */
void plan_warn_of_too_much(const struct plan *plan, const struct hardware *hardware)
{
    uint64_t there = hardware->memory_available ? hardware->memory_available : hardware->memory_total;
    if (hardware->cgroup_limit != UINT64_MAX)
        there = MIN(there, hardware->cgroup_limit - MIN(hardware->cgroup_used, hardware->cgroup_limit));
    uint64_t wanted = plan->resident_bytes + plan->pool_bytes + plan->kv_bytes + plan->scratch_bytes;
    if (there == 0 || wanted <= there)
        return;
    char more[32], less[32];
    log_write(LOG_WARNING, "the memory budget allows %s, but only %s are free here",
              format_bytes(more, sizeof more, (double)wanted), format_bytes(less, sizeof less, (double)there));
}

static hypura_status too_small(struct planner *planner, hypura_error *error)
{
    /* From PLAN_SMALL_BUDGET on, budgets include code, so the message names the least such budget. A smaller number may
     * work too, but only because it excludes code. */
    uint64_t asked = planner->budget, smallest = add(smallest_budget(planner, asked), planner->request->wobble);
    char have[32];
    format_bytes(have, sizeof have, (double)asked);
    return error_set(error, HYPURA_ERROR_MEMORY,
                     "a memory budget of %s (%" PRIu64 " bytes) is too small for this model with a context of %u: the "
                     "smallest that works is %" PRIu64 " bytes (%" PRIu64 "M)",
                     have, asked, least_positions(planner), smallest, (smallest + ((1 << 20) - 1)) >> 20);
}

static hypura_status allocate(struct plan **out, const struct plan_table *table, hypura_error *error)
{
    struct plan *plan = NULL;
    hypura_status status = ALLOCATE(&plan, 1, "plan", error);
    *out = plan;
    if (status == HYPURA_OK)
        status = ALLOCATE(&plan->tiers, table->count, "plan", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&plan->in_ring, table->count, "plan", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&plan->cuts, table->count, "plan", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&plan->groups, table->count, "plan", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&plan->streams, table->piece_count, "plan", error);
    for (uint32_t i = 0; status == HYPURA_OK && i < table->count; i++) {
        plan->cuts[i] = table->units[i].cut;
        plan->groups[i] = table->units[i].group;
    }
    return status;
}

/* The bytes that the ring should have room for in addition to those in use. Half of the reader's depth keeps the drive
 * busy (hw_choose_reads). */
static uint64_t lookahead_of(const struct storage *storage)
{
    return (uint64_t)storage->block_bytes * ((storage->depth + 1) / 2) +
           (uint64_t)(LOOKAHEAD_SECONDS * storage->bytes_per_second);
}

/* Places the weights for a setting. */
static hypura_status place(struct plan *plan, const struct planner *planner, const struct setting *setting,
                           hypura_error *error)
{
    struct placement placement = {.tiers = plan->tiers, .in_ring = plan->in_ring, .streams = plan->streams};
    uint64_t capacity = for_weights(planner, setting);
    share_rows(plan, planner->table, planner->smallest_capacity, planner->resident_capacity, &capacity);
    TRY(plan_place(planner->table, capacity, lookahead_of(&planner->hardware->storage), &placement, error));
    plan->mode = placement.mode;
    plan->embedding_rows = placement.embedding_rows;
    plan->resident_bytes = placement.resident_bytes;
    plan->ring_bytes = placement.ring_bytes;
    plan->table_bytes = placement.table_bytes + plan->row_cache_bytes;
    plan->expert_cache_bytes = placement.expert_cache_bytes;
    plan->pool_bytes = placement.ring_bytes + placement.expert_cache_bytes;
    return HYPURA_OK;
}

/* Whether the expert cache next to a GPU may grow and shrink. If the GPU reads it in place, it stays as it is. If it
 * has room for all experts and those that change sides, it must keep that. */
static bool can_borrow(const struct plan *plan, const struct plan_table *table, const struct plan_gpu *gpu)
{
    uint64_t experts = 0;
    for (uint32_t i = 0; i < table->count; i++)
        experts += table->units[i].priority == PRIORITY_EXPERT ? table->units[i].footprint : 0;
    return !gpu->in_place && plan->expert_cache_bytes + plan->spare_scratch_bytes < experts;
}

/* Sets the fields of a plan that come from the request and the setting. */
static void account(struct plan *plan, const struct planner *planner, const struct setting *setting)
{
    const struct plan_request *request = planner->request;
    plan->unit_count = planner->table->count;
    plan->positions = setting->positions;
    plan->sequences = sequences(request);
    plan->chunk = setting->chunk;
    plan->kv_positions = setting->kv < whole_kv(request, setting->positions)
                             ? setting->kv_positions
                             : most_kv_positions(request, setting->positions);
    plan->kv_type = request->kv_type;
    plan->budget = planner->budget;
    plan->overhead_bytes = planner->overhead;
    plan->code_on_top = planner->code_on_top;
    plan->reserve_bytes = planner->reserve;
    plan->kv_bytes = setting->kv;
    plan->scratch_bytes = setting->scratch;
    if (plan->expert_cache_bytes && request->working_set.spare_bytes)
        plan->spare_scratch_bytes =
            request->working_set.spare_bytes(request->working_set.context, setting->chunk, setting->positions);
    if (request->gpu && !can_borrow(plan, planner->table, request->gpu))
        plan->spare_scratch_bytes = 0;
}

hypura_status plan_make_units(struct plan **out, const struct plan_table *table, const struct hardware *hardware,
                              const struct plan_request *request, hypura_error *error)
{
    struct planner planner = {.table = table, .hardware = hardware, .request = request};
    planner.smallest_capacity = plan_smallest_capacity(table);
    planner.resident_capacity = plan_resident_capacity(table);
    planner.least = make_setting(request, least_positions(&planner),
                                 least_kv_positions(request, least_positions(&planner)), least_chunk(&planner));
    uint64_t smallest = add(smallest_budget(&planner, 0), request->wobble);
    set_budget(&planner, request->budget ? request->budget : hardware_default_budget(hardware));
    planner.needed_chunk = needed_chunk(&planner);
    planner.wanted_chunk = request->gpu ? request->gpu->chunk : MAX(planner.needed_chunk, DEFAULT_CHUNK);

    struct setting setting;
    if (!choose_setting(&planner, true, &setting) && !choose_setting(&planner, false, &setting))
        return too_small(&planner, error);

    struct plan *plan;
    hypura_status status = allocate(&plan, table, error);
    if (status == HYPURA_OK)
        status = place(plan, &planner, &setting, error);
    if (status == HYPURA_OK) {
        account(plan, &planner, &setting);
        plan->smallest_budget = smallest;
        status = plan_predict(plan, table, hardware, request, error);
    }
    if (status != HYPURA_OK) {
        plan_free(plan);
        return status;
    }
    describe(plan, table, request->gpu);
    *out = plan;
    return HYPURA_OK;
}
