/* Lists of steps: some step reads each tensor of the file, in the order of the units. Rewriting a list for a device
 * does not change what it reads. */
#include "test.h"

#include "steps/steps.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static struct model *model;
static struct steps *steps;

static void open_model(const char *name)
{
    char path[4096];
    const char *folder = getenv("HYPURA_ORACLE");
    if (folder)
        snprintf(path, sizeof path, "%s/models/%s", folder, name);
    else
        snprintf(path, sizeof path, "%s/oracle/models/%s", getenv("HYPURA_TEST_DATA"), name);
    hypura_status status = model_open(&model, path, &test_error);
    if (status == HYPURA_ERROR_UNSUPPORTED)
        return;
    assert_ok(status);
    assert_ok(steps_make(&steps, model, &test_error));
}

static void close_model(void)
{
    steps_free(steps);
    model_close(model);
    steps = NULL;
    model = NULL;
}

/* Calls a function for each reference model that is present. */
static void each_model(void (*look)(void))
{
    char path[4096];
    const char *oracle = getenv("HYPURA_ORACLE");
    snprintf(path, sizeof path, "%s%s", oracle ? oracle : getenv("HYPURA_TEST_DATA"),
             oracle ? "/models" : "/oracle/models");
    DIR *folder = opendir(path);
    size_t looked = 0;
    assert_non_null(folder);
    for (const struct dirent *entry; (entry = readdir(folder));) {
        if (!strstr(entry->d_name, ".gguf"))
            continue;
        open_model(entry->d_name);
        if (model) {
            look();
            looked++;
        }
        close_model();
    }
    closedir(folder);
    assert_true(looked > 20);
}

/* ---- units ------------------------------------------------------------------------------------------------------- */

/* [units] the number of steps that read each unit. */
static uint32_t *count_reads(struct step_list list)
{
    uint32_t *reads = calloc(model_unit_count(model), sizeof *reads);
    assert_non_null(reads);
    for (size_t i = 0; i < list.count; i++) {
        struct step_unit units[STEP_UNITS];
        size_t count = step_units(&list.steps[i], units);
        for (size_t u = 0; u < count; u++)
            reads[units[u].unit]++;
        for (uint32_t e = 0; list.steps[i].kind == STEP_EXPERTS && e < model_parameters(model)->experts; e++)
            reads[list.steps[i].experts.first + e]++;
    }
    return reads;
}

static void look_whether_all_are_read(void)
{
    uint32_t *reads = count_reads(steps_all(steps));
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        bool factors = unit->role >= ROLE_ROPE_FACTORS && unit->role <= ROLE_ROPE_FACTORS_SHORT;
        if (factors == (reads[u] > 0))
            fail_msg("%s: '%s' is read by %u steps", model_name(model), unit->slices[0].tensor->name.data, reads[u]);
    }
    free(reads);
}

static void every_unit_is_read(void **state)
{
    (void)state;
    each_model(look_whether_all_are_read);
}

/* Matrices are read in the order of unit numbers. */
static void look_at_order(void)
{
    struct step_list all = steps_all(steps);
    unit_number last = 0;
    for (size_t i = 0; i < all.count; i++) {
        struct step_unit units[STEP_UNITS];
        size_t count = all.steps[i].layer < 0 ? 0 : step_units(&all.steps[i], units);
        for (size_t u = 0; u < count; u++) {
            if (units[u].use != USE_MATRIX)
                continue;
            if (units[u].unit < last)
                fail_msg("%s: '%s' is read after a later unit", model_name(model),
                         model_unit(model, units[u].unit)->slices[0].tensor->name.data);
            last = units[u].unit;
        }
    }
}

static void matrices_are_read_in_order(void **state)
{
    (void)state;
    each_model(look_at_order);
}

/* ---- buffers ----------------------------------------------------------------------------------------------------- */

static void look_at_writers(void)
{
    struct step_list all = steps_all(steps);
    uint32_t written = 1u << BUFFER_BANK; /* a recall step reads what it wrote itself */
    for (size_t i = 0; i < all.count; i++) {
        if (all.steps[i].reads & ~written)
            fail_msg("%s: step %zu (%s) reads a buffer that no step wrote", model_name(model), i,
                     step_name(all.steps[i].kind));
        written |= all.steps[i].writes;
    }
}

static void steps_read_what_was_written(void **state)
{
    (void)state;
    each_model(look_at_writers);
}

/* ---- states ------------------------------------------------------------------------------------------------------ */

/* The states that the steps of a layer keep per sequence neither overlap nor leave gaps. Recurrent layers keep some. */
static void look_at_states(void)
{
    for (uint32_t i = 0; i < model_parameters(model)->layers; i++) {
        struct step_list list = steps_of_layer(steps, i);
        size_t floats = 0;
        for (size_t s = 0; s < list.count; s++) {
            if (step_state(&list.steps[s]) && list.steps[s].state != floats)
                fail_msg("%s: the state of step %zu of layer %u begins at %zu instead of %zu", model_name(model), s, i,
                         list.steps[s].state, floats);
            floats += step_state(&list.steps[s]);
        }
        if (model_layer(model, i)->recurrent && floats == 0)
            fail_msg("%s: layer %u is recurrent but keeps no state", model_name(model), i);
    }
}

static void states_are_adjacent(void **state)
{
    (void)state;
    each_model(look_at_states);
}

/* ---- routers ----------------------------------------------------------------------------------------------------- */

static void look_for_routers(void)
{
    for (uint32_t i = 0; i <= model_parameters(model)->layers; i++) {
        const struct model_layer *layer = model_layer(model, i);
        struct step_router router;
        bool found = steps_router(steps, i, &router);
        assert_int_equal(router.route != NULL, layer && layer->moe);
        assert_int_equal(found, router.route && router.route->route.table == NO_UNIT);
        if (!found)
            continue;
        /* The router's steps read only these buffers and those that they write. */
        uint32_t there = 1u << BUFFER_HIDDEN | 1u << BUFFER_BANK;
        for (uint32_t s = 0; s < router.count; s++) {
            assert_false(router.steps[s]->reads & ~there);
            assert_false(step_writes(router.steps[s], BUFFER_HIDDEN));
            there |= router.steps[s]->writes;
        }
        assert_true(router.route->kind == STEP_ROUTE && (there >> router.route->route.in & 1));
    }
}

static void routers_of_later_layers_are_found(void **state)
{
    (void)state;
    each_model(look_for_routers);
}

/* ---- fusing ------------------------------------------------------------------------------------------------------ */

static void look_at_fused(void)
{
    struct step_list all = steps_all(steps), fused = {0};
    for (int few = 0; few < 2; few++) {
        struct step *own;
        assert_ok(steps_fuse(all, few, &own, &fused.count, &test_error));
        fused.steps = own;
        if (fused.count > all.count) /* layer norms are not fused */
            fail_msg("%s: fusing turned %zu steps into %zu", model_name(model), all.count, fused.count);
        assert_int_equal(own[fused.count].kind, STEP_KINDS);
        uint32_t *before = count_reads(all), *after = count_reads(fused);
        uint32_t written = 1u << BUFFER_BANK;
        for (unit_number u = 0; u < model_unit_count(model); u++)
            if (!before[u] != !after[u])
                fail_msg("%s: '%s' is read by %u steps, but by %u of the fused list", model_name(model),
                         model_unit(model, u)->slices[0].tensor->name.data, before[u], after[u]);
        for (size_t i = 0; i < fused.count; i++) {
            assert_true(i == 0 || own[i - 1].layer <= own[i].layer || own[i].layer < 0);
            if (own[i].reads & ~written)
                fail_msg("%s: fused step %zu (%s) reads a buffer that no step wrote", model_name(model), i,
                         step_name(own[i].kind));
            written |= own[i].writes;
        }
        free(before);
        free(after);
        memory_free(own);
    }
}

static void fused_lists_read_the_same(void **state)
{
    (void)state;
    each_model(look_at_fused);
}

static void kinds_of(struct step_list list, char *out, size_t room)
{
    out[0] = '\0';
    for (size_t i = 0; i < list.count; i++) {
        strncat(out, step_name(list.steps[i].kind), room - strlen(out) - 1);
        strncat(out, i + 1 < list.count ? ", " : "", room - strlen(out) - 1);
    }
}

static void expect_fused(const char *name, uint32_t layer, bool few, const char *expected)
{
    char found[1024], file[128];
    struct step *own;
    struct step_list list = {0};
    snprintf(file, sizeof file, "%s.gguf", name);
    open_model(file);
    assert_ok(steps_fuse(steps_of_layer(steps, layer), few, &own, &list.count, &test_error));
    list.steps = own;
    kinds_of(list, found, sizeof found);
    assert_string_equal(found, expected);
    memory_free(own);
    close_model();
}

static void each_pattern_is_found(void **state)
{
    (void)state;
    /* For many rows, the steps between products become one. For few rows, the products themselves norm and add. */
    expect_fused("llama", 0, false, "norm, multiply, heads, attend, multiply, residual, multiply, multiply, residual");
    expect_fused("llama", 0, true, "multiply, heads, attend, multiply, multiply, multiply");
    /* A residual step adds the experts' outputs, weights the shared expert, and applies both norms. For few rows, the
     * router and the experts norm for themselves, too. */
    expect_fused("mixtral", 0, true, "multiply, heads, attend, multiply, route, experts, residual");
    expect_fused("qwen2moe", 0, false,
                 "norm, multiply, heads, attend, multiply, residual, route, multiply, multiply, multiply, experts, "
                 "residual");
    expect_fused("gemma2", 0, true, "multiply, heads, attend, multiply, residual, multiply, multiply, residual");
    /* Queries are rotated before the key matrices. */
    expect_fused("deepseek2-v3", 0, true, "multiply, multiply, heads, attend latent, multiply, multiply, multiply");
}

/* Uses the larger set of reference models, if it is present. */
static void mixtures_begin_where_their_router_reads(void **state)
{
    (void)state;
    if (!getenv("HYPURA_ORACLE"))
        return;
    /* A router that reads the layer's input comes before attention, which leaves time to read experts. */
    expect_fused("smallthinker", 1, false,
                 "route, norm, multiply, heads, attend, multiply, residual, experts, residual");
    expect_fused("arctic", 1, false,
                 "norm, route, norm, multiply, heads, attend, multiply, residual, multiply, multiply, experts, "
                 "residual, residual");
    /* The gate of attention is one more product. Group experts follow the sum of the chosen ones. */
    expect_fused("laguna", 0, true, "multiply, heads, attend, glu, multiply, multiply, multiply");
    expect_fused("grovemoe", 1, true,
                 "multiply, heads, attend, multiply, route, experts, mix, chunk experts, residual");
}

static void steps_describe_themselves(void **state)
{
    (void)state;
    char text[256];
    open_model("llama.gguf");
    struct step_list list = steps_of_layer(steps, 0);
    step_describe(&list.steps[0], text, sizeof text);
    assert_string_equal(text, "hidden -> normed: rms norm of 96");
    step_describe(&list.steps[1], text, sizeof text);
    assert_non_null(strstr(text, "normed -> query ("));
    step_describe(&list.steps[1], text, 8); /* truncated to the buffer */
    assert_int_equal(strlen(text), 7);
    close_model();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_unit_is_read),
        cmocka_unit_test(matrices_are_read_in_order),
        cmocka_unit_test(steps_read_what_was_written),
        cmocka_unit_test(routers_of_later_layers_are_found),
        cmocka_unit_test(fused_lists_read_the_same),
        cmocka_unit_test(each_pattern_is_found),
        cmocka_unit_test(mixtures_begin_where_their_router_reads),
        cmocka_unit_test(steps_describe_themselves),
        cmocka_unit_test(states_are_adjacent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
