/* Which units of the embedded model go to a GPU, and the length of batches there. */
#include "embedded.h"
#include "gpu_card.h"

#include <math.h>
#include <string.h>

#define MOST_LAYERS 64

static uint8_t abilities[MOST_LAYERS];

static int open_able_model(void **state)
{
    memset(abilities, GPU_CAN, sizeof abilities);
    return open_model(state) || model_parameters(model)->layers > MOST_LAYERS ? -1 : 0;
}

static uint64_t kv_bytes(const void *context, uint32_t layer, uint32_t positions, uint32_t sequences, uint64_t room,
                         enum tensor_type kv_type)
{
    (void)context, (void)layer, (void)kv_type;
    return MIN((uint64_t)positions * sequences, room) * 64;
}

static uint64_t no_kv_bytes(const void *context, uint32_t layer, uint32_t positions, uint32_t sequences, uint64_t room,
                            enum tensor_type kv_type)
{
    (void)context, (void)layer, (void)positions, (void)sequences, (void)room, (void)kv_type;
    return 0;
}

static uint64_t scratch_bytes(const void *context, uint32_t chunk, uint32_t positions)
{
    (void)context, (void)positions;
    return chunk * KIB;
}

static struct plan_gpu_request request_for(uint64_t budget)
{
    return (struct plan_gpu_request){.device_count = 1,
                                     .budgets = {budget},
                                     .max_allocation = (uint64_t)1 << 40,
                                     .layers = abilities,
                                     .output = true,
                                     .moves = true,
                                     .positions = 4096,
                                     .kv_type = TENSOR_F16,
                                     .memory = 1024 * MIB,
                                     .kv_bytes = kv_bytes,
                                     .scratch_bytes = scratch_bytes};
}

static struct plan_gpu *plan_for(const struct plan_gpu_request *request)
{
    struct plan_gpu *plan = NULL;
    assert_ok(plan_gpu_make(&plan, model, steps, request, &test_error));
    assert_non_null(plan);
    uint64_t taken = plan->resident_bytes + plan->expert_bytes + plan->kv_bytes + plan->scratch_bytes;
    assert_true(taken <= request->budgets[0]);
    return plan;
}

static struct plan_gpu *plan_for_all(const struct plan_gpu_request *request)
{
    struct plan_gpu *plan = NULL;
    assert_ok(plan_gpu_make(&plan, model, steps, request, &test_error));
    assert_non_null(plan);
    assert_int_equal(plan->part_count, request->device_count);
    for (uint32_t d = 0; d < plan->part_count; d++)
        assert_true(plan_gpu_bytes(&plan->parts[d]) <= request->budgets[d]);
    return plan;
}

static uint32_t chunk_for(const struct plan_gpu_request *request)
{
    struct plan_gpu *plan = plan_for(request);
    uint32_t chunk = plan->chunk;
    plan_gpu_free(plan);
    return chunk;
}

/* Room for all layers, half of the experts, and the longest batch. */
static uint64_t half_of_the_experts(void)
{
    struct plan_gpu_request request = request_for(1024 * MIB);
    struct plan_gpu *all = plan_for(&request);
    assert_int_equal(all->taken, all->layer_count);
    assert_int_equal(all->chunk, 2048);
    assert_false(all->moves);
    uint64_t budget = all->resident_bytes + all->kv_bytes + all->scratch_bytes + all->expert_bytes / 2;
    plan_gpu_free(all);
    return budget;
}

/* The longest batch whose buffers take at most an eighth of the budget. */
static uint32_t eighth_of(uint64_t budget)
{
    uint32_t chunk = 2048;
    while (scratch_bytes(NULL, chunk, 0) > budget / 8)
        chunk /= 2;
    return chunk;
}

static void batches_take_an_eighth(void **state)
{
    (void)state;
    struct hardware hardware = machine();
    struct hardware_gpu device = {.upload_bytes_per_second = 1e9};
    uint64_t budget = half_of_the_experts();
    struct plan_gpu_request request = request_for(budget);
    assert_int_equal(chunk_for(&request), eighth_of(budget)); /* without speeds, a longer batch has no known gain */
    assert_true(eighth_of(budget) < 2048);
    request.chunk = 1024;
    assert_int_equal(chunk_for(&request), 1024);
    /* If all experts have room, no batch uploads any. */
    request = request_for(1024 * MIB);
    request.hardware = &hardware;
    request.devices = &device;
    request.budgets[0] = budget * 2;
    struct plan_gpu *plan = plan_for(&request);
    assert_false(plan->moves);
    assert_int_equal(plan->chunk, eighth_of(request.budgets[0]));
    plan_gpu_free(plan);
}

/* The chunk has the length that is cheapest for a prompt and its answer, and takes no layer off the GPU. */
static void divided_mixtures_take_the_cheapest_chunk(void **state)
{
    (void)state;
    static const double speeds[] = {1e8, 1e9, 1e10, 1e11};
    struct hardware hardware = machine();
    struct hardware_gpu device = {0};
    uint64_t budget = half_of_the_experts();
    uint32_t shortest = eighth_of(budget), seen = 0;
    for (int i = 0; i < 64; i++) {
        device.upload_bytes_per_second = speeds[i % 4];
        hardware.compute_bytes_per_second = speeds[i / 4 % 4];
        hardware.storage.bytes_per_second = i / 16 % 2 ? 1e8 : 1e10;
        struct plan_gpu_request request = request_for(budget);
        request.memory = i / 32 ? 2 * MIB : 1024 * MIB;
        request.hardware = &hardware;
        request.devices = &device;
        struct plan_gpu *chosen = plan_for(&request);
        seen |= chosen->chunk;
        double seconds = plan_gpu_request_seconds(chosen, model, steps, &request);
        assert_true(seconds > 0 && chosen->chunk >= (i / 32 ? shortest / 2 : shortest));
        for (request.chunk = chosen->chunk < shortest ? shortest / 2 : shortest; request.chunk <= 2048;
             request.chunk *= 2) {
            struct plan_gpu *other = plan_for(&request);
            bool whole = other->taken == chosen->layer_count && other->output && other->visit_slots &&
                         (i / 32 == 0 || other->scratch_bytes <= budget / 10);
            if (request.chunk == shortest)
                assert_true(chosen->taken == other->taken && chosen->output == other->output);
            assert_true(!whole || seconds <= plan_gpu_request_seconds(other, model, steps, &request));
            plan_gpu_free(other);
        }
        plan_gpu_free(chosen);
    }
    assert_int_equal(seen & (shortest | 2048), shortest | 2048); /* each extreme is best for some machine */
}

/* If experts without room are read from the drive, nine tenths of the device hold weights, keys and values. */
static void buffers_leave_room_if_the_drive_reads(void **state)
{
    (void)state;
    struct hardware hardware = machine();
    struct hardware_gpu device = {.upload_bytes_per_second = 1e10};
    for (int part = 3; part < 8; part++) {
        const uint64_t budget = model_bytes(model) * (uint64_t)part / 8;
        struct plan_gpu_request request = request_for(budget);
        request.positions = 1024;
        request.hardware = &hardware;
        request.devices = &device;
        request.memory = 1 * MIB;
        struct plan_gpu *plan = plan_for(&request);
        const uint64_t held = plan->resident_bytes + plan->kv_bytes + plan->expert_bytes;
        assert_true(plan->visit_slots > 0 && plan->expert_bytes > 0);
        if (held < budget / 10 * 9)
            fail_msg("weights take %.3f of the device, with batches of %u tokens", (double)held / (double)budget,
                     plan->chunk);
        plan_gpu_free(plan);
    }
}

static uint64_t lasting_bytes(const void *context, uint32_t chunk, uint32_t positions)
{
    return scratch_bytes(context, MIN(chunk, 32), positions);
}

/* A request of which the drive reads some experts, with buffers that can be lent. */
static struct plan_gpu_request request_that_lends(uint64_t budget)
{
    struct plan_gpu_request request = request_for(budget);
    request.positions = 1024;
    request.memory = 1 * MIB;
    request.lasting_bytes = lasting_bytes;
    request.lent_bytes = scratch_bytes;
    request.short_rows = 32;
    return request;
}

static uint32_t slots_of(const struct plan_gpu *plan, uint64_t rows)
{
    uint32_t slots = 0;
    for (uint32_t l = 0; l < plan->layer_count; l++)
        slots += plan_gpu_slots(plan, l, rows);
    return slots;
}

/* Experts have the memory of buffers that only long batches use. These are at least as long as without a loan, and the
 * longer a batch is, the more experts leave. */
static void buffers_of_long_batches_are_lent(void **state)
{
    (void)state;
    struct hardware hardware = machine();
    struct hardware_gpu device = {.upload_bytes_per_second = 1e10};
    for (int part = 4; part < 7; part++) {
        const uint64_t budget = model_bytes(model) * (uint64_t)part / 8;
        struct plan_gpu_request request = request_that_lends(budget), other = request;
        request.hardware = other.hardware = &hardware;
        request.devices = other.devices = &device;
        other.lent_bytes = NULL;
        struct plan_gpu *plan = NULL, *without = plan_for(&other);
        assert_ok(plan_gpu_make(&plan, model, steps, &request, &test_error));
        assert_true(plan->lent_bytes == plan->visit_bytes + plan->chunk * KIB && without->lent_bytes == 0);
        assert_true(plan_gpu_bytes(plan) <= budget);
        assert_true(plan->chunk >= without->chunk);
        assert_true(plan->resident_bytes == without->resident_bytes && plan->expert_bytes > without->expert_bytes);
        assert_true(plan->resident_bytes + plan->kv_bytes + plan->expert_bytes > budget / 100 * 95);
        uint64_t lent = 0;
        for (uint32_t l = 0; l < plan->layer_count; l++)
            if (plan->lent[l])
                lent += plan->slots[l] * plan_gpu_unit_bytes(model_unit(model, plan_first_expert(steps, l)));
        assert_true(lent >= plan->lent_bytes);
        const uint32_t few = slots_of(plan, 32), some = slots_of(plan, 64), most = slots_of(plan, plan->chunk);
        assert_true(few > some && some >= most && some > 0);
        assert_int_equal(slots_of(without, plan->chunk), slots_of(without, 1));
        plan_gpu_free(plan);
        plan_gpu_free(without);
    }
}

/* Nothing is lent where no token has to read experts, or where they may not move or are elsewhere. */
static void loans_need_reads_and_moves(void **state)
{
    (void)state;
    uint8_t *elsewhere = calloc(model_unit_count(model), 1);
    for (int i = 0; i < 5; i++) {
        struct plan_gpu_request request = request_that_lends(model_bytes(model) / 2);
        request.memory = i == 1 ? 1024 * MIB : request.memory;
        request.moves = i != 2;
        request.elsewhere = i == 3 ? elsewhere : NULL;
        request.chunk = i == 4 ? 32 : 0;
        struct plan_gpu *plan = NULL;
        assert_ok(plan_gpu_make(&plan, model, steps, &request, &test_error));
        assert_int_equal(plan->lent_bytes > 0, i == 0);
        for (uint32_t l = 0; l < plan->layer_count && i > 0; l++)
            assert_int_equal(plan->lent[l], 0);
        assert_true(plan_gpu_bytes(plan) <= request.budgets[0]);
        plan_gpu_free(plan);
    }
    free(elsewhere);
}

/* If the CPU computes prompts slowly, and uploading experts would not help, long batches are better. If the CPU
 * computes the experts of an answer slowly, more experts on the GPU are better. */
static void prompts_want_long_batches_and_answers_want_experts(void **state)
{
    (void)state;
    struct hardware hardware = machine();
    struct hardware_gpu device = {.upload_bytes_per_second = 1e8};
    uint64_t budget = half_of_the_experts();
    struct plan_gpu_request request = request_for(budget);
    request.hardware = &hardware;
    request.devices = &device;
    hardware.multiply_adds_per_second = 1e9;
    hardware.compute_bytes_per_second = 1e12;
    assert_int_equal(chunk_for(&request), 2048);
    request.longest_chunk = 512;
    assert_int_equal(chunk_for(&request), 512);
    request.longest_chunk = 0;
    hardware.compute_bytes_per_second = 1e7;
    assert_int_equal(chunk_for(&request), eighth_of(budget));
}

static double seconds_a_token(const struct plan_gpu *gpu, double share_seconds)
{
    struct hardware hardware = machine();
    struct hardware_gpu device = {
        .memory_bytes_per_second = 1e12, .turn_seconds = 1e-5, .move_seconds = 1e-5, .share_seconds = share_seconds};
    struct plan_request request = {.budget = 1024 * MIB, .positions = 256, .kv_type = TENSOR_F16};
    struct plan *plan;
    request.gpu = gpu;
    request.devices = &device;
    assert_ok(plan_make(&plan, model, steps, &hardware, &request, &test_error));
    double seconds = 1 / plan->predicted_tokens_per_second;
    plan_free(plan);
    return seconds;
}

/* A layer with experts on both sides is handed to the CPU and back. A layer that is entirely on one side, or whose
 * experts the GPU reads in place, is not. */
static void layers_on_both_sides_are_handed_over(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        struct plan_gpu_request request = request_for(kind == 0 ? 1024 * MIB : half_of_the_experts());
        request.in_place = kind == 2;
        struct plan_gpu *gpu = plan_for(&request);
        assert_int_equal(gpu->moves > 0, kind == 1);
        assert_int_equal(gpu->in_place, kind == 2);
        double more = seconds_a_token(gpu, 300e-6) - seconds_a_token(gpu, 100e-6);
        assert_true(fabs(more - (kind == 1 ? gpu->layer_count * 200e-6 : 0)) < 1e-9);
        plan_gpu_free(gpu);
    }
}

/* The device holds the experts that were used most, so it computes more than its share of them. */
static void known_uses_give_the_device_more_to_do(void **state)
{
    (void)state;
    const uint32_t experts = model_parameters(model)->experts;
    struct plan_gpu_request request = request_for(half_of_the_experts());
    struct plan_gpu *even = plan_for(&request);
    assert_null(even->used_there);
    uint64_t *uses = calloc(model_unit_count(model), sizeof *uses);
    assert_non_null(uses);
    for (unit_number u = 0; u < model_unit_count(model); u++)
        if (model_unit(model, u)->kind == UNIT_EXPERT)
            uses[u] = 1 + 9 * (uint64_t)(model_unit(model, u)->expert % 4 == 1);
    request.uses = uses;
    struct plan_gpu *hot = plan_for(&request);
    assert_non_null(hot->used_there);
    for (uint32_t l = 0; l < hot->layer_count; l++)
        assert_true(hot->used_there[l] > (float)hot->slots[l] / (float)experts && hot->used_there[l] <= 1);
    assert_true(seconds_a_token(hot, 100e-6) < seconds_a_token(even, 100e-6));
    plan_gpu_free(hot);
    plan_gpu_free(even);
    free(uses);
}

/* Memory with room for all other experts also has room for experts that leave the GPU before others replace them there.
 * So no expert is read twice. */
static void experts_that_leave_the_gpu_have_room_in_memory(void **state)
{
    (void)state;
    struct hardware hardware = machine();
    struct plan_gpu_request all = request_for(half_of_the_experts());
    struct plan_gpu *gpu = plan_for(&all);
    struct plan_request request = {.budget = 1024 * MIB, .positions = 256, .kv_type = TENSOR_F16, .gpu = gpu};
    struct hardware_gpu device = {.memory_bytes_per_second = 1e12};
    uint64_t here = 0, largest = 0;
    struct plan *plan;
    request.devices = &device;
    gpu->moves = 3;
    assert_ok(plan_make(&plan, model, steps, &hardware, &request, &test_error));
    for (unit_number u = 0; u < model_unit_count(model); u++)
        if (model_unit(model, u)->kind == UNIT_EXPERT && !gpu->units[u]) {
            here += model_unit(model, u)->bytes;
            largest = MAX(largest, model_unit(model, u)->bytes);
        }
    assert_int_equal(plan->mode, PLAN_FULL_RESIDENT);
    assert_true(plan->expert_cache_bytes >= here + 3 * largest);
    plan_free(plan);
    plan_gpu_free(gpu);
}

static uint64_t spare_bytes(const void *context, uint32_t chunk, uint32_t positions)
{
    return scratch_bytes(context, chunk, positions) / 2;
}

/* If the drive reads some, experts in memory also have the buffers of long batches, unless the GPU reads them in place.
 */
static void buffers_in_memory_hold_experts(void **state)
{
    (void)state;
    struct hardware hardware = machine();
    struct plan_gpu_request all = request_for(half_of_the_experts());
    struct plan_gpu *gpu = plan_for(&all);
    struct hardware_gpu device = {.memory_bytes_per_second = 1e12};
    const struct {
        uint64_t budget;
        bool in_place, borrows;
    } cases[] = {{8 * MIB, false, true}, {8 * MIB, true, false}, {1024 * MIB, false, false}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const struct plan_request request = {
            .budget = cases[i].budget,
            .positions = 256,
            .chunk = 512,
            .kv_type = TENSOR_F16,
            .gpu = gpu,
            .devices = &device,
            .working_set = {.scratch_bytes = scratch_bytes, .spare_bytes = spare_bytes}};
        struct plan *plan;
        gpu->in_place = cases[i].in_place;
        assert_ok(plan_make(&plan, model, steps, &hardware, &request, &test_error));
        assert_true(plan->expert_cache_bytes > 0 && plan->scratch_bytes == 512 * KIB);
        assert_int_equal(plan->spare_scratch_bytes, cases[i].borrows ? 256 * KIB : 0);
        plan_free(plan);
    }
    plan_gpu_free(gpu);
}

/* The costs that decide whether an expert is uploaded to the GPU for one batch. */
static void the_gain_of_a_visit_depends_on_the_tokens(void **state)
{
    (void)state;
    struct hardware hardware = machine();
    struct hardware_gpu device = {.upload_bytes_per_second = 10e9};
    uint32_t experts = model_parameters(model)->experts, used = model_parameters(model)->experts_used;
    unit_number expert = plan_first_expert(steps, 0);
    const struct unit *unit = model_unit(model, expert);
    struct plan_visit few = plan_gpu_visit(model, expert, 4, 4, 1, &hardware, &device);
    struct plan_visit many = plan_gpu_visit(model, expert, 4, 4, 2 * experts, &hardware, &device);
    assert_true(!few.many && many.many);
    assert_false(plan_gpu_visit(model, expert, 4, 0, 2 * experts, &hardware, &device).many);
    assert_true(fabs(few.upload_seconds - many.upload_seconds) < 1e-12);
    /* A group costs the same whatever its size. */
    device.upload_bytes_per_second = INFINITY;
    const double group = plan_gpu_visit(model, expert, 4, 4, 1, &hardware, &device).upload_seconds;
    assert_true(group > 0);
    assert_true(fabs(plan_gpu_visit(model, expert, 9, 4, 1, &hardware, &device).upload_seconds - 3 * group) < 1e-12);
    assert_true(fabs(many.upload_seconds - group - 4 * (double)unit->bytes / 10e9) < 1e-9);
    /* The CPU unpacks an expert once, for one row or many. */
    assert_true(many.here_seconds > few.here_seconds);
    assert_true(many.here_seconds < 1.001 * 2.0 * experts * few.here_seconds);
    assert_true(used < experts && few.here_seconds > 0);
}

/* If everything fits, the faster of two devices gets more layers. If one has no room for its share, the other gets it.
 */
static void devices_share_by_speed_and_room(void **state)
{
    (void)state;
    struct plan_gpu_request request = request_for(1024 * MIB);
    request.chunk = 64;
    struct plan_gpu *whole = plan_for(&request);
    const uint32_t layers = whole->layer_count;
    const uint64_t weights = plan_gpu_bytes(whole) - whole->scratch_bytes, scratch = whole->scratch_bytes;
    plan_gpu_free(whole);
    struct hardware_gpu devices[3] = {card(1), card(1), card(1)};
    request.devices = devices;
    request.spread = true;
    for (uint32_t count = 2; count <= 3; count++) {
        request.device_count = count;
        request.budgets[count - 1] = 1024 * MIB;
        struct plan_gpu *plan = plan_for_all(&request);
        for (uint32_t d = 0; d < count; d++)
            assert_in_range(plan->parts[d].taken, layers / count - 1, layers / count + 2);
        plan_gpu_free(plan);
    }
    request.device_count = 2;
    for (int quick = 0; quick < 2; quick++) {
        devices[quick] = card(3);
        devices[!quick] = card(1);
        struct plan_gpu *plan = plan_for_all(&request);
        assert_true(plan->parts[quick].taken > 2 * plan->parts[!quick].taken && plan->parts[!quick].taken > 0);
        assert_true(plan->parts[1].output && !plan->parts[0].output);
        assert_int_equal(plan->taken, layers);
        plan_gpu_free(plan);
        request.budgets[quick] = scratch + weights / 4;
        plan = plan_for_all(&request);
        assert_true(plan->parts[quick].taken < plan->parts[!quick].taken && plan->parts[quick].taken > 0);
        assert_int_equal(plan->taken, layers);
        assert_false(plan->moves);
        plan_gpu_free(plan);
        request.budgets[quick] = 1024 * MIB;
    }
}

/* Each device holds a third of a mixture. */
static void devices_share_experts_by_room(void **state)
{
    (void)state;
    struct plan_gpu_request request = request_for(half_of_the_experts());
    struct hardware_gpu devices[2] = {card(1), card(1)};
    request.chunk = 64;
    struct plan_gpu *one = plan_for(&request);
    request.devices = devices;
    request.device_count = 2;
    request.budgets[0] = request.budgets[1] =
        one->scratch_bytes + (one->resident_bytes + one->kv_bytes) * 2 / 3 + one->expert_bytes / 2;
    struct plan_gpu *two = plan_for_all(&request);
    assert_true(two->taken == one->layer_count && two->moves && !two->in_place);
    for (uint32_t d = 0; d < 2; d++)
        assert_in_range(two->parts[d].expert_bytes, two->expert_bytes / 3, two->expert_bytes * 2 / 3);
    uint32_t slots = 0;
    for (uint32_t i = 0; i < two->layer_count; i++) {
        assert_int_equal(two->slots[i], two->parts[two->devices[i]].slots[i]);
        slots += two->slots[i];
    }
    for (unit_number u = 0; u < two->unit_count; u++) {
        assert_int_equal(two->units[u] == 1, two->parts[0].units[u]);
        assert_int_equal(two->units[u] == 2, two->parts[1].units[u]);
    }
    assert_true(slots > 0);
    plan_gpu_free(one);
    plan_gpu_free(two);
}

/* A small model is spread only if handing it over costs nothing, or if the request says so. */
static void a_small_model_stays_on_the_fastest(void **state)
{
    (void)state;
    struct plan_gpu_request request = request_for(1024 * MIB);
    struct hardware_gpu devices[2] = {card(1), card(2)};
    request.devices = devices;
    request.device_count = 2;
    request.budgets[1] = 1024 * MIB;
    for (int kind = 0; kind < 3; kind++) {
        devices[0].move_seconds = devices[1].move_seconds = kind == 1 ? 1e-9 : 1e-3;
        request.spread = kind == 2;
        struct plan_gpu *plan = plan_for_all(&request);
        assert_int_equal(plan->taken, plan->layer_count);
        assert_int_equal(plan->parts[0].taken > 0, kind > 0);
        assert_int_equal(plan_gpu_bytes(&plan->parts[0]) > 0, kind > 0);
        plan_gpu_free(plan);
    }
}

static uint32_t groups_for(const struct plan_gpu_request *request)
{
    struct plan_gpu *plan = plan_for_all(request);
    const uint32_t groups = plan->groups;
    assert_int_equal(plan->taken, plan->layer_count);
    for (uint32_t i = 0, run = 0; i < plan->layer_count; i = plan_gpu_run_end(plan, i), run++)
        assert_int_equal(plan->devices[i], run % request->device_count);
    plan_gpu_free(plan);
    return groups;
}

/* Layers alternate between devices in groups if a prompt gains more than the answer's tokens lose, and if passing them
 * on takes little of a token's time. */
static void layers_alternate_if_it_pays(void **state)
{
    (void)state;
    struct plan_gpu_request request = request_for(1024 * MIB);
    struct hardware_gpu devices[2] = {card(1e-3), card(1e-3)};
    request.devices = devices;
    request.device_count = 2;
    request.budgets[1] = 1024 * MIB;
    request.spread = request.parts = true;
    request.chunk = 1024;
    const uint32_t free = groups_for(&request); /* passing on costs nothing */
    assert_true(free > 1);
    devices[1].measured = false; /* nobody knows */
    assert_int_equal(groups_for(&request), 1);
    devices[1].measured = true;
    for (size_t d = 0; d < 2; d++)
        devices[d].move_seconds = 1e-3;
    assert_int_equal(groups_for(&request), 1);
    request.groups = 3; /* as requested */
    assert_int_equal(groups_for(&request), 3);
    request.groups = PLAN_MOST_GROUPS; /* as many as there are layers for */
    assert_int_equal(groups_for(&request), model_parameters(model)->layers / 2);
    for (size_t d = 0; d < 2; d++)
        devices[d].move_seconds = 0;
    request.groups = 0;
    request.parts = false; /* prompts gain nothing */
    assert_int_equal(groups_for(&request), 1);
}

/* A device gets none of the experts of other hosts, even if it has room, and no room for experts that visit. */
static void experts_of_other_hosts_stay_there(void **state)
{
    (void)state;
    const uint32_t experts = model_parameters(model)->experts;
    uint8_t *elsewhere = calloc(model_unit_count(model), 1);
    assert_non_null(elsewhere);
    for (unit_number u = 0; u < model_unit_count(model); u++)
        elsewhere[u] = model_unit(model, u)->kind == UNIT_EXPERT && model_unit(model, u)->expert % 2;
    const uint64_t budgets[] = {1024 * MIB, half_of_the_experts()};
    for (size_t i = 0; i < COUNT_OF(budgets); i++) {
        struct plan_gpu_request request = request_for(budgets[i]);
        request.elsewhere = elsewhere;
        struct plan_gpu *plan = plan_for(&request);
        for (unit_number u = 0; u < plan->unit_count; u++)
            assert_false(elsewhere[u] && plan->units[u]);
        for (uint32_t l = 0; l < plan->layer_count; l++)
            assert_true(plan->slots[l] <= experts - experts / 2);
        assert_int_equal(plan->taken, plan->layer_count);
        assert_true(plan->expert_bytes > 0 && plan->visit_slots == 0);
        plan_gpu_free(plan);
    }
    free(elsewhere);
}

/* If a device has no room for some of its experts, its layers are neighbours. */
static void a_host_with_experts_only_has_nothing_else_there(void **state)
{
    (void)state;
    const uint32_t units = model_unit_count(model), experts = model_parameters(model)->experts;
    uint8_t *elsewhere = calloc(units, 1);
    assert_non_null(elsewhere);
    uint64_t own = 0;
    for (unit_number u = 0; u < units; u++) {
        const struct unit *unit = model_unit(model, u);
        elsewhere[u] = unit->kind != UNIT_EXPERT || unit->expert % 2 == 0;
        own += elsewhere[u] ? 0 : unit->bytes;
    }
    struct plan_gpu_request request = request_for(1024 * MIB);
    request.experts_only = true;
    request.output = false;
    request.chunk = 64;
    request.elsewhere = elsewhere;
    for (int some = 0; some < 2; some++) {
        request.budgets[0] = some ? own / 2 + scratch_bytes(NULL, 64, 0) : 1024 * MIB;
        request.kv_bytes = no_kv_bytes;
        struct plan_gpu *plan = plan_for(&request);
        assert_false(plan->output);
        assert_true(some ? plan->expert_bytes < own : plan->expert_bytes >= own);
        assert_int_equal(plan->moves > 0, some);
        assert_true(plan->expert_bytes > own / 3);
        for (unit_number u = 0; u < units; u++)
            assert_true(!plan->units[u] || !elsewhere[u]);
        for (uint32_t l = 0; l < plan->layer_count; l++)
            assert_true(plan->slots[l] > 0 && plan->slots[l] <= experts / 2);
        plan_gpu_free(plan);
    }
    struct plan_gpu *none = NULL;
    request.budgets[0] = scratch_bytes(NULL, 64, 0) + 1;
    assert_ok(plan_gpu_make(&none, model, steps, &request, &test_error));
    assert_null(none);
    free(elsewhere);
}

static void layers_do_not_alternate_without_room(void **state)
{
    (void)state;
    struct plan_gpu_request request = request_for(half_of_the_experts());
    struct hardware_gpu devices[2] = {card(1), card(1)};
    request.devices = devices;
    request.device_count = 2;
    request.groups = 2;
    request.chunk = 64;
    struct plan_gpu *one = plan_for(&request);
    request.budgets[0] = request.budgets[1] =
        one->scratch_bytes + (one->resident_bytes + one->kv_bytes) * 2 / 3 + one->expert_bytes / 2;
    assert_int_equal(groups_for(&request), 1);
    plan_gpu_free(one);
}

/* Each device multiplies as many rows of the output matrix as it can until the last one is done, which begins a move
 * sooner. */
static void devices_divide_the_output_matrix(void **state)
{
    (void)state;
    const uint32_t rows = model_parameters(model)->vocabulary, slack = 128;
    const struct unit *output = model_unit(model, steps_find(steps_after(steps), STEP_OUTPUT)->output.unit);
    struct plan_gpu_request request = request_for(1024 * MIB);
    struct hardware_gpu devices[2] = {card(1e-3), card(1e-3)};
    const double alone = (double)output->bytes / hardware_gpu_kernel_speed(&devices[1], output->slices[0].tensor->type);
    request.devices = devices;
    request.device_count = 2;
    request.budgets[1] = 1024 * MIB;
    request.spread = true;
    request.chunk = 64;
    const struct {
        double speed, move; /* of the first device; in units of the time that one takes alone */
        enum plan_division division;
        double share; /* of the first device; 0: it has none */
    } ways[] = {{1, 0, DIVIDE_IF_QUICKER, 0.5}, {2, 0, DIVIDE_IF_QUICKER, 2.0 / 3}, {1, 0.25, DIVIDE_IF_QUICKER, 0.375},
                {1, 0.5, DIVIDE_IF_QUICKER, 0}, {1, 0.5, DIVIDE_ALWAYS, 0.5},       {1, 0, DIVIDE_NEVER, 0}};
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        devices[0] = card(ways[i].speed * 1e-3);
        devices[0].move_seconds = devices[1].move_seconds = ways[i].move * alone;
        request.output_division = ways[i].division;
        struct plan_gpu *plan = plan_for_all(&request);
        const struct plan_gpu *first = &plan->parts[0], *last = &plan->parts[1];
        assert_true(last->output);
        assert_int_equal(plan->output_divided, ways[i].share > 0);
        assert_int_equal(first->output_rows + last->output_rows, ways[i].share > 0 ? rows : 0);
        assert_true(fabs(first->output_rows - ways[i].share * rows) <= slack);
        assert_int_equal(first->output_first, last->output_rows);
        assert_int_equal(first->copied_bytes, first->output_rows * (output->bytes / rows));
        assert_int_equal(plan->copied_bytes, first->copied_bytes);
        assert_int_equal(strstr(plan->reason, "divide") != NULL, ways[i].share > 0);
        if (i == 0)
            assert_true(fabs(plan->output_saves / alone - 0.5) < (double)slack / rows);
        plan_gpu_free(plan);
    }
    devices[1].move_seconds = 0;
    devices[0] = card(1e-3);
    devices[0].measured = false;
    request.output_division = DIVIDE_IF_QUICKER;
    struct plan_gpu *plan = plan_for_all(&request);
    assert_false(plan->output_divided);
    plan_gpu_free(plan);
    request.output_division = DIVIDE_ALWAYS; /* without room for a copy */
    plan = plan_for_all(&request);
    request.budgets[0] = plan_gpu_bytes(&plan->parts[0]) - plan->parts[0].copied_bytes + 1;
    plan_gpu_free(plan);
    plan = plan_for_all(&request);
    assert_false(plan->output_divided);
    plan_gpu_free(plan);
}

/* What was measured on two H100 with 40 layers of Llama 70B's geometry: two runs each and four parts decode as fast as
 * one card, and read prompts 1.6 times as fast. */
static void two_large_cards_take_turns(void **state)
{
    (void)state;
    const struct hardware_gpu card = {.measured = true,
                                      .memory_bytes_per_second = 2.96e12,
                                      .layer_seconds = 22e-6,
                                      .move_seconds = 35e-6,
                                      .info.panels = true};
    const struct hardware_gpu devices[2] = {card, card};
    const struct plan_gpu_request request = {.device_count = 2, .parts = true, .devices = devices};
    struct plan_gpu parts[2] = {{.taken = 20, .resident_bytes = 10200000000},
                                {.taken = 20, .resident_bytes = 10200000000}};
    struct plan_gpu plan = {
        .part_count = 2,
        .parts = parts,
        .groups = 1,
        .chunk = 2048,
        .pace = {.row_seconds = 80e-6, .way_seconds = 35e-6, .way_row_seconds = 1.6e-6, .panels = true, .kept = 0.97}};
    plan.groups = plan_gpu_choose_groups(&plan, model, &request);
    assert_int_equal(plan.groups, 2);
    assert_int_equal(plan_gpu_parts(&plan, 2048), 4);
}

/* Devices with panels keep unpacked weights in half of what a plan leaves. Only then do short parts cost little. */
static void unpacked_weights_stay_where_memory_is_left(void **state)
{
    (void)state;
    struct plan_gpu_request request = request_for(1024 * MIB);
    struct hardware_gpu device = card(1);
    request.devices = &device;
    struct plan_gpu *plan = plan_for(&request);
    assert_int_equal(plan->kept_bytes, 0);
    assert_null(strstr(plan->reason, "unpacked"));
    const uint64_t least = plan_gpu_bytes(plan);
    plan_gpu_free(plan);

    device.info.panels = true;
    plan = plan_for(&request);
    const uint64_t all = plan->kept_bytes;
    assert_true(all > plan->resident_bytes && all <= plan_gpu_keep_bytes(&plan->parts[0]));
    assert_non_null(strstr(plan->reason, "unpacked weights"));
    plan_gpu_free(plan);

    request.budgets[0] = least + all;
    plan = plan_for(&request);
    assert_int_equal(plan_gpu_bytes(plan), least);
    assert_int_equal(plan->kept_bytes, all / 2);
    plan_gpu_free(plan);

    struct plan_gpu parts[2] = {{.taken = 20}, {.taken = 20}};
    struct plan_gpu pace = {.part_count = 2, .parts = parts, .groups = 1, .pace = {.row_seconds = 1e-4}};
    pace.pace.panels = true;
    const uint32_t few = plan_gpu_parts(&pace, 2048);
    pace.pace.kept = 1;
    assert_true(plan_gpu_parts(&pace, 2048) > few);
    pace.groups = 2; /* three parts of 683 would fill no tile */
    assert_int_equal(plan_gpu_parts(&pace, 2048), 4);
}

/* If not all weights fit next to a whole context for each sequence, sequences share less room. */
static void sequences_share_room_if_memory_is_short(void **state)
{
    (void)state;
    enum { SEQUENCES = 8 };
    struct plan_gpu_request request = request_for(1024 * MIB);
    request.sequences = SEQUENCES;
    request.shares_room = true;
    struct plan_gpu *whole = plan_for(&request);
    assert_int_equal(whole->kv_positions, SEQUENCES * request.positions);
    const uint64_t bytes = plan_gpu_bytes(whole), kv = whole->kv_bytes;
    const uint64_t weights = whole->resident_bytes + whole->expert_bytes;
    request.chunk = whole->chunk;
    plan_gpu_free(whole);
    for (uint32_t part = 2; part <= SEQUENCES; part *= 2) {
        request.budgets[0] = bytes - kv + kv / part;
        struct plan_gpu *plan = plan_for(&request);
        assert_int_equal(plan->kv_positions, SEQUENCES * request.positions / part);
        assert_int_equal(plan->kv_bytes, kv / part);
        assert_int_equal(plan->resident_bytes + plan->expert_bytes, weights);
        plan_gpu_free(plan);
    }
    /* Now some weights have no room in any case. */
    request.budgets[0] = bytes / 2;
    struct plan_gpu *plan = plan_for(&request);
    assert_true(plan->kv_positions >= request.positions);
    assert_true(plan->kv_positions == request.positions || plan->kv_bytes <= request.budgets[0] / 8);
    const uint64_t shared = plan->resident_bytes + plan->expert_bytes;
    plan_gpu_free(plan);
    request.shares_room = false;
    plan = plan_for(&request);
    assert_int_equal(plan->kv_positions, SEQUENCES * request.positions);
    assert_true(plan->resident_bytes + plan->expert_bytes <= shared && shared < weights);
    plan_gpu_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_take_an_eighth),
        cmocka_unit_test(devices_share_by_speed_and_room),
        cmocka_unit_test(devices_share_experts_by_room),
        cmocka_unit_test(experts_of_other_hosts_stay_there),
        cmocka_unit_test(a_host_with_experts_only_has_nothing_else_there),
        cmocka_unit_test(a_small_model_stays_on_the_fastest),
        cmocka_unit_test(layers_alternate_if_it_pays),
        cmocka_unit_test(layers_do_not_alternate_without_room),
        cmocka_unit_test(two_large_cards_take_turns),
        cmocka_unit_test(devices_divide_the_output_matrix),
        cmocka_unit_test(divided_mixtures_take_the_cheapest_chunk),
        cmocka_unit_test(prompts_want_long_batches_and_answers_want_experts),
        cmocka_unit_test(layers_on_both_sides_are_handed_over),
        cmocka_unit_test(known_uses_give_the_device_more_to_do),
        cmocka_unit_test(experts_that_leave_the_gpu_have_room_in_memory),
        cmocka_unit_test(buffers_in_memory_hold_experts),
        cmocka_unit_test(the_gain_of_a_visit_depends_on_the_tokens),
        cmocka_unit_test(buffers_leave_room_if_the_drive_reads),
        cmocka_unit_test(buffers_of_long_batches_are_lent),
        cmocka_unit_test(loans_need_reads_and_moves),
        cmocka_unit_test(unpacked_weights_stay_where_memory_is_left),
        cmocka_unit_test(sequences_share_room_if_memory_is_short),
    };
    return cmocka_run_group_tests(tests, open_able_model, close_model);
}
