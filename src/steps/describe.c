/* Lists in words, for "hypura inspect --layers". */
#include "steps/steps_private.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const buffer_names[BUFFER_COUNT] = {[BUFFER_NONE] = "-",
                                                       [BUFFER_HIDDEN] = "hidden",
                                                       [BUFFER_NORMED] = "normed",
                                                       [BUFFER_BRANCH] = "branch",
                                                       [BUFFER_SIDE] = "side",
                                                       [BUFFER_QUERY] = "query",
                                                       [BUFFER_RAW] = "raw",
                                                       [BUFFER_KEY] = "key",
                                                       [BUFFER_VALUE] = "value",
                                                       [BUFFER_ATTENDED] = "attended",
                                                       [BUFFER_LATENTS] = "latents",
                                                       [BUFFER_BETA] = "beta",
                                                       [BUFFER_DECAY] = "decay",
                                                       [BUFFER_GATE] = "gate",
                                                       [BUFFER_UP] = "up",
                                                       [BUFFER_SHARE] = "share",
                                                       [BUFFER_COEFFICIENTS] = "coefficients",
                                                       [BUFFER_BANK] = "bank",
                                                       [BUFFER_LOOKED_UP] = "looked up",
                                                       [BUFFER_INDEX_QUERY] = "index query",
                                                       [BUFFER_INDEX_KEY] = "index key",
                                                       [BUFFER_INDEX_WEIGHT] = "index weight",
                                                       [BUFFER_CHOSEN] = "chosen",
                                                       [BUFFER_TOKEN] = "token",
                                                       [BUFFER_SIDES] = "sides",
                                                       [BUFFER_LAST] = "last",
                                                       [BUFFER_READING] = "reading"};

static const char *const kind_names[STEP_KINDS] = {[STEP_EMBED] = "embed",
                                                   [STEP_LOOK_UP] = "look up",
                                                   [STEP_ADD_ROWS] = "add rows",
                                                   [STEP_JOIN] = "join",
                                                   [STEP_NORM] = "norm",
                                                   [STEP_MULTIPLY] = "multiply",
                                                   [STEP_HEADS] = "heads",
                                                   [STEP_POOL] = "pool",
                                                   [STEP_INDEX] = "index",
                                                   [STEP_SPREAD] = "spread",
                                                   [STEP_ATTEND] = "attend",
                                                   [STEP_ATTEND_LATENT] = "attend latent",
                                                   [STEP_CONVOLVE] = "convolve",
                                                   [STEP_SCAN] = "scan",
                                                   [STEP_DELTA_NET] = "delta net",
                                                   [STEP_COMPRESS] = "compress",
                                                   [STEP_GLU] = "glu",
                                                   [STEP_FUNCTION] = "function",
                                                   [STEP_ROUTE] = "route",
                                                   [STEP_EXPERTS] = "experts",
                                                   [STEP_MIX] = "mix",
                                                   [STEP_CHUNK_EXPERTS] = "chunk experts",
                                                   [STEP_SCALE_ROWS] = "scale rows",
                                                   [STEP_SCALE] = "scale",
                                                   [STEP_ADD] = "add",
                                                   [STEP_RECALL] = "recall",
                                                   [STEP_GATHER] = "gather",
                                                   [STEP_GATHER_GATED] = "gather gated",
                                                   [STEP_AGREE] = "agree",
                                                   [STEP_SCATTER] = "scatter",
                                                   [STEP_PREDICT] = "predict",
                                                   [STEP_CORRECT] = "correct",
                                                   [STEP_MATCH] = "match",
                                                   [STEP_SPARSE] = "sparse",
                                                   [STEP_OUTPUT] = "output",
                                                   [STEP_RESIDUAL] = "residual"};

const char *buffer_name(enum step_buffer buffer)
{
    return (unsigned)buffer < BUFFER_COUNT ? buffer_names[buffer] : "?";
}

const char *step_name(enum step_kind kind)
{
    return (unsigned)kind < STEP_KINDS ? kind_names[kind] : "?";
}

struct line {
    char *text;
    size_t room, used;
};

__attribute__((format(printf, 2, 3))) static void say(struct line *line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length =
        line->used < line->room ? vsnprintf(line->text + line->used, line->room - line->used, format, arguments) : 0;
    va_end(arguments);
    if (length > 0)
        line->used += (size_t)length;
}

static const char *glu_name(enum glu_kind kind)
{
    static const char *const names[] = {[GLU_SILU] = "silu",
                                        [GLU_GELU] = "gelu",
                                        [GLU_GELU_ERF] = "gelu (erf)",
                                        [GLU_RELU] = "relu",
                                        [GLU_OAI] = "oai",
                                        [GLU_SIGMOID] = "sigmoid",
                                        [GLU_PRODUCT] = "product",
                                        [GLU_SILU_CLAMPED] = "clamped silu",
                                        [GLU_SILU_CAPPED] = "capped silu",
                                        [GLU_SOFTPLUS] = "softplus",
                                        [GLU_SITU] = "situ"};
    return names[kind];
}

static const char *function_name(enum activation_function function)
{
    static const char *const names[] = {[FUNCTION_SILU] = "silu",
                                        [FUNCTION_GELU] = "gelu",
                                        [FUNCTION_GELU_ERF] = "gelu (erf)",
                                        [FUNCTION_RELU] = "relu",
                                        [FUNCTION_RELU_SQUARED] = "relu squared",
                                        [FUNCTION_SIGMOID] = "sigmoid",
                                        [FUNCTION_SOFTPLUS] = "softplus",
                                        [FUNCTION_TANH] = "tanh"};
    return names[function];
}

static void say_heads(struct line *line, const struct step_heads *h)
{
    const struct step_head *heads[] = {&h->query, &h->key};
    const char *between = "";
    for (size_t i = 0; i < COUNT_OF(heads); i++) {
        const struct step_head *head = heads[i];
        if (head->buffer == BUFFER_NONE)
            continue;
        say(line, "%s%s: %u x %u", between, buffer_name(head->buffer), head->heads, head->size);
        if (h->clamp != 0.0f)
            say(line, ", at most %g", (double)h->clamp);
        if (i == 0 && h->raw != BUFFER_NONE)
            say(line, " from %s", buffer_name(h->raw));
        if (head->norm != NO_UNIT)
            say(line, ", normed");
        if (h->plain_norm)
            say(line, ", normed without weights");
        if (h->turns)
            say(line, ", %u turned%s", h->rotary, h->back ? " back" : "");
        if (i == 0 && h->sharpened)
            say(line, ", sharpened");
        between = "; ";
    }
    if (h->value_norm)
        say(line, "; value: normed");
    if (h->plane)
        say(line, "; to plane %u of the cache", h->plane);
    else if (h->stores)
        say(line, "; to the cache");
}

static void say_index(struct line *line, const struct step_index *x)
{
    say(line, "%s x plane %u of the cache -> %s: %u heads of %u", buffer_name(x->query), x->plane, buffer_name(x->out),
        x->heads, x->size);
    say(line, x->by_head ? ", each chooses the best %u" : ", the best %u", x->most);
    if (x->block > 1)
        say(line, " blocks of %u", x->block);
    if (x->every > 1)
        say(line, ", a key every %u positions", x->every);
    if (x->local)
        say(line, ", the last %u always", x->local);
    if (x->tail)
        say(line, ", and what follows the last key");
}

static void say_chosen(struct line *line, const struct step_choice *chosen)
{
    if (chosen->buffer == BUFFER_NONE)
        return;
    say(line, ", of %s at most %u", buffer_name(chosen->buffer), chosen->most);
    if (chosen->block > 1)
        say(line, " x %u", chosen->block);
    if (chosen->sets > 1)
        say(line, " for each of %u", chosen->sets);
}

static void say_attend(struct line *line, const struct step *step)
{
    const struct step_attend *a = &step->attend;
    say(line, "%s x cache -> %s: %u heads on %u", buffer_name(a->query), buffer_name(a->out), a->heads, a->kv_heads);
    if ((int32_t)a->source != step->layer)
        say(line, ", the cache of layer %u", a->source);
    if (a->window)
        say(line, ", window %u", a->window);
    if (a->compressed)
        say(line, ", and a row for each %u positions", a->compressed);
    if (a->chunk)
        say(line, ", chunks of %u", a->chunk);
    if (a->soft_cap != 0.0f)
        say(line, ", soft cap %g", (double)a->soft_cap);
    if (a->sinks != NO_UNIT)
        say(line, ", sinks");
    say_chosen(line, &a->chosen);
    if (a->alibi != 0.0f)
        say(line, ", less with the distance");
    if (a->bidirectional)
        say(line, ", both ways");
    if (a->around)
        say(line, ", nearer than %u", a->around);
}

static void say_delta_net(struct line *line, const struct step_delta_net *d)
{
    for (size_t part = 0; part < DELTA_PARTS; part++)
        if (part == 0 || d->in[part].buffer != d->in[part - 1].buffer)
            say(line, "%s%s", part ? ", " : "", buffer_name(d->in[part].buffer));
    say(line, " -> %s: %u states of %u x %u, convolution of %u", buffer_name(d->out), d->heads_v, d->key_size,
        d->value_size, d->taps);
    if (d->kind != DECAY_OF_HEAD)
        say(line, ", decay by channel");
    if (d->kind == DECAY_BOUNDED)
        say(line, " from exp(%g)", (double)d->bound);
}

static void say_multiply(struct line *line, const struct step_multiply *multiply)
{
    say(line, "%s ->", buffer_name(multiply->in));
    if (multiply->groups > 1)
        say(line, " %u groups of", multiply->groups);
    for (uint32_t i = 0; i < multiply->count; i++)
        say(line, "%s %s (%u x %u%s)", i ? "," : "", buffer_name(multiply->matrices[i].out), multiply->columns,
            multiply->matrices[i].rows, multiply->matrices[i].scale == NO_UNIT ? "" : ", scaled");
}

void step_describe(const struct step *step, char *text, size_t room)
{
    struct line line = {.text = text, .room = room};
    if (room)
        text[0] = '\0';
    switch (step->kind) {
    case STEP_EMBED:
        say(&line, "tokens -> hidden");
        if (step->embed.copies > 1)
            say(&line, ", %u times", step->embed.copies);
        if (step->embed.scale != 1.0f)
            say(&line, " times %g", (double)step->embed.scale);
        break;
    case STEP_LOOK_UP:
        say(&line, "tokens -> %s: %u rows of %u by %s", buffer_name(step->look_up.out), step->look_up.rows,
            step->look_up.width, step->look_up.ngrams ? "n-gram" : "token");
        break;
    case STEP_ADD_ROWS:
        say(&line, "hidden += %s", step->add_rows.by_position ? "the row of its position" : "the first row");
        break;
    case STEP_JOIN:
        say(&line, "%s, %s -> %s: the rms norms of both, next to one another", buffer_name(step->join.first),
            buffer_name(step->join.second), buffer_name(step->join.out));
        break;
    case STEP_NORM:
        say(&line, "%s -> %s: %s of %u", buffer_name(step->norm.in), buffer_name(step->norm.out),
            step->norm.centred ? "layer norm" : "rms norm", step->norm.width);
        if (step->norm.groups > 1)
            say(&line, ", %u of them", step->norm.groups);
        break;
    case STEP_MULTIPLY:
        say_multiply(&line, &step->multiply);
        break;
    case STEP_HEADS:
        say_heads(&line, &step->heads);
        break;
    case STEP_SPREAD:
        say(&line, "%s, %s -> %s, %s: %u heads", buffer_name(step->spread.in), buffer_name(step->spread.latents),
            buffer_name(step->spread.key), buffer_name(step->spread.value), step->spread.heads);
        break;
    case STEP_ATTEND:
        say_attend(&line, step);
        break;
    case STEP_ATTEND_LATENT:
        say(&line, "%s x cache -> %s: %u heads on one of %u + %u", buffer_name(step->attend_latent.query),
            buffer_name(step->attend_latent.out), step->attend_latent.heads, step->attend_latent.rank,
            step->attend_latent.rotary);
        if (step->attend_latent.sinks != NO_UNIT)
            say(&line, ", sinks");
        say_chosen(&line, &step->attend_latent.chosen);
        break;
    case STEP_POOL:
        say(&line, "%s -> plane %u of the cache: one key of %u for every %u positions", buffer_name(step->pool.in),
            step->pool.plane, step->pool.size, step->pool.every);
        break;
    case STEP_INDEX:
        say_index(&line, &step->index);
        break;
    case STEP_CONVOLVE:
        say(&line, "%s -> %s: %u channels over %u tokens%s", buffer_name(step->convolve.in.buffer),
            buffer_name(step->convolve.out), step->convolve.groups * step->convolve.width, step->convolve.taps,
            step->convolve.silu ? ", silu" : "");
        break;
    case STEP_SCAN:
        say(&line, "%s, %s, %s, %s -> %s: %u states of %u x %u", buffer_name(step->scan.in.buffer),
            buffer_name(step->scan.steps), buffer_name(step->scan.write.buffer), buffer_name(step->scan.read.buffer),
            buffer_name(step->scan.out), step->scan.heads, step->scan.size, step->scan.width);
        break;
    case STEP_COMPRESS:
        say(&line, "%s%s%s -> the cache: a row of %u for each %u positions", buffer_name(step->compress.values),
            step->compress.gates == BUFFER_NONE ? "" : " by ",
            step->compress.gates == BUFFER_NONE ? "" : buffer_name(step->compress.gates), step->compress.size,
            step->compress.every);
        break;
    case STEP_DELTA_NET:
        say_delta_net(&line, &step->delta_net);
        break;
    case STEP_GLU:
        say(&line, "%s(%s) x %s -> %s", glu_name(step->glu.kind), buffer_name(step->glu.gate.buffer),
            buffer_name(step->glu.up.buffer), buffer_name(step->glu.out));
        if (step->glu.gate_per_group)
            say(&line, ", one gate for each %u", step->glu.width);
        break;
    case STEP_FUNCTION:
        say(&line, "%s(%s)", function_name(step->function.function), buffer_name(step->function.buffer));
        break;
    case STEP_ROUTE:
        say(&line, "%s -> %u of %u experts", buffer_name(step->route.in), step->route.rule.used,
            step->route.rule.experts);
        if (step->route.table != NO_UNIT)
            say(&line, ", which the token says");
        if (step->route.rule.groups)
            say(&line, " in %u of %u groups", step->route.rule.groups_used, step->route.rule.groups);
        break;
    case STEP_EXPERTS:
        say(&line, "%s -> the chosen experts (%u x %u): %s", buffer_name(step->experts.in), step->experts.columns,
            step->experts.width, glu_name(step->experts.glu));
        if (step->experts.gate_scale != NO_UNIT || step->experts.up_scale != NO_UNIT ||
            step->experts.down_scale != NO_UNIT)
            say(&line, ", scaled");
        break;
    case STEP_MIX:
        say(&line, "their weighted sum%s%s -> %s", step->mix.side != BUFFER_NONE ? " + " : "",
            step->mix.side != BUFFER_NONE ? buffer_name(step->mix.side) : "", buffer_name(step->mix.out));
        if (step->mix.scale != 1.0f)
            say(&line, ", times %g", (double)step->mix.scale);
        break;
    case STEP_CHUNK_EXPERTS:
        say(&line, "%s += %g x those of %u that the chosen groups share, %u wide: %s",
            buffer_name(step->chunk_experts.buffer), (double)step->chunk_experts.scale, step->chunk_experts.experts,
            step->chunk_experts.width, glu_name(step->chunk_experts.glu));
        break;
    case STEP_SCALE_ROWS:
        say(&line, "%s times %s", buffer_name(step->scale_rows.buffer), buffer_name(step->scale_rows.by));
        break;
    case STEP_SCALE:
        if (step->scale.factor != NO_UNIT)
            say(&line, "%s times one number", buffer_name(step->scale.buffer));
        else
            say(&line, "%s times %g", buffer_name(step->scale.buffer), (double)step->scale.by);
        break;
    case STEP_ADD:
        say(&line, "%s += %s", buffer_name(step->add.to), buffer_name(step->add.from));
        if (step->add.copies > 1)
            say(&line, ", %u times next to each other", step->add.copies);
        if (step->add.scale != 1.0f)
            say(&line, " times %g", (double)step->add.scale);
        break;
    case STEP_RECALL:
        say(&line, "%s, %u of %s -> %s", buffer_name(step->recall.row), step->recall.kept,
            buffer_name(step->recall.bank), buffer_name(step->recall.out));
        break;
    case STEP_GATHER:
        say(&line, "%u streams of %s by %s -> %s", step->gather.count, buffer_name(step->gather.streams),
            buffer_name(step->gather.coefficients), buffer_name(step->gather.out));
        break;
    case STEP_GATHER_GATED:
        say(&line, "%u streams of %s by gates of %s -> %s", step->gather_gated.count,
            buffer_name(step->gather_gated.streams), buffer_name(step->gather_gated.gates),
            buffer_name(step->gather_gated.out));
        break;
    case STEP_AGREE:
        say(&line, "%s by %s x %s -> %s: %u streams", buffer_name(step->agree.values), buffer_name(step->agree.keys),
            buffer_name(step->agree.queries), buffer_name(step->agree.out), step->agree.count);
        break;
    case STEP_SCATTER:
        say(&line, "%s -> %u streams of %s by %s", buffer_name(step->scatter.from), step->scatter.count,
            buffer_name(step->scatter.streams), buffer_name(step->scatter.coefficients));
        if (step->scatter.sinkhorn)
            say(&line, ", which mix");
        break;
    case STEP_PREDICT:
        say(&line, "hidden, %s: each foresees the next from all", buffer_name(step->sides.sides));
        break;
    case STEP_CORRECT:
        say(&line, "hidden, %s: corrected by %s; hidden, scaled -> %s", buffer_name(step->sides.sides),
            buffer_name(step->sides.from), buffer_name(step->sides.out));
        break;
    case STEP_MATCH:
        say(&line, "%s: as long as %s", buffer_name(step->match.rows), buffer_name(step->match.by));
        break;
    case STEP_SPARSE:
        say(&line, "%s: less the mean and %g standard deviations, at least 0", buffer_name(step->sparse.buffer),
            (double)step->sparse.deviations);
        break;
    case STEP_OUTPUT:
        say(&line, "%s -> logits", buffer_name(step->output.in));
        if (step->output.matrix_scale != NO_UNIT)
            say(&line, ", scaled");
        if (step->output.scale != 1.0f)
            say(&line, " times %g", (double)step->output.scale);
        if (step->output.soft_cap != 0.0f)
            say(&line, ", soft cap %g", (double)step->output.soft_cap);
        break;
    case STEP_RESIDUAL:
        say(&line, "%s += %s", buffer_name(step->residual.to),
            step->residual.mixes ? "the experts' sum" : buffer_name(step->residual.from));
        if (step->residual.out != BUFFER_NONE)
            say(&line, ", normed -> %s", buffer_name(step->residual.out));
        break;
    case STEP_KINDS:
        break;
    }
}
