/* What people who know llama.cpp and Ollama type, and what they mistype: options that mean the same are taken as they
 * are, others get a sentence that says what does that here. */
#include "cli/cli.h"

#include <string.h>

struct pair {
    const char *given, *here;
};

/* The first that the command has. */
static const struct pair same[] = {
    {"-p", "prompt"},
    {"-p", "prompt-tokens"},
    {"-n", "max-tokens"},
    {"-n", "gen-tokens"},
    {"--n-predict", "max-tokens"},
    {"--predict", "max-tokens"},
    {"--n-prompt", "prompt-tokens"},
    {"--n-gen", "gen-tokens"},
    {"-d", "context-fill"},
    {"--n-depth", "context-fill"},
    {"-c", "context"},
    {"--ctx-size", "context"},
    {"-t", "threads"},
    {"-f", "file"},
    {"-i", "interactive"},
    {"-cnv", "interactive"},
    {"--conversation", "interactive"},
    {"-sys", "system"},
    {"--system-prompt", "system"},
    {"-s", "seed"},
    {"-r", "stop"},
    {"-r", "repeat"},
    {"--repetitions", "repeat"},
    {"--reverse-prompt", "stop"},
    {"-b", "chunk"},
    {"--batch-size", "chunk"},
    {"-ub", "chunk"},
    {"--ubatch-size", "chunk"},
    {"-l", "logit-bias"},
    {"--grammar-file", "grammar"},
    {"--json-schema-file", "format"},
    {"-np", "parallel"},
    {"-md", "draft"},
    {"--model-draft", "draft"},
    {"--keepalive", "keep-alive"},
    {"--guess", "prefetch"}, /* as it was called here before */
};

/* What has no option of that meaning. */
static const char gpu_layers[] = "layers go to the GPU by themselves; --gpu-memory SIZE bounds that, --gpu none keeps "
                                 "them off it",
                  no_mapping[] = "files are not mapped: weights are read into memory of the program's own, within "
                                 "--memory",
                  fetching[] = "a model is downloaded once, with \"hypura pull hf.co/USER/REPOSITORY\", and then has "
                               "a name",
                  experts[] = "experts find their place by themselves; --memory and --gpu-memory bound it",
                  attention[] = "attention is always computed in one pass over the cache",
                  figures[] = "--map shows the figures of a run, --stats FILE writes them",
                  drafts[] = "how many tokens are drafted follows from what is measured while it runs; --drafting off "
                             "drafts none",
                  thinking[] = "--var enable_thinking=true or =false says so to models that know it";

static const struct pair differs[] = {
    {"-ngl", gpu_layers},
    {"--gpu-layers", gpu_layers},
    {"--n-gpu-layers", gpu_layers},
    {"-sm", gpu_layers},
    {"-ts", gpu_layers},
    {"-mg", "--gpu N chooses the GPU"},
    {"--main-gpu", "--gpu N chooses the GPU"},
    {"-ot", experts},
    {"--override-tensor", experts},
    {"-cmoe", experts},
    {"--cpu-moe", experts},
    {"-ncmoe", experts},
    {"--n-cpu-moe", experts},
    {"--mlock", no_mapping},
    {"--mmap", no_mapping},
    {"--no-mmap", no_mapping},
    {"-hf", fetching},
    {"-hfr", fetching},
    {"--hf-repo", fetching},
    {"-mu", "\"hypura pull URL\" downloads a model"},
    {"--model-url", "\"hypura pull URL\" downloads a model"},
    {"-fa", attention},
    {"--flash-attn", attention},
    {"-ctk", "--kv-type is the precision of keys and values"},
    {"--cache-type-k", "--kv-type is the precision of keys and values"},
    {"-ctv", "--kv-type is the precision of keys and values"},
    {"--cache-type-v", "--kv-type is the precision of keys and values"},
    {"--verbose", figures},
    {"-v", figures},
    {"--draft-max", drafts},
    {"--draft-min", drafts},
    {"--draft-n", drafts},
    {"--draft-p-min", drafts},
    {"--spec-type", drafts},
    {"--think", thinking},
    {"--reasoning-budget", thinking},
    {"-no-cnv", "--raw goes on with a text without a chat template"},
    {"--no-conversation", "--raw goes on with a text without a chat template"},
    {"--color", "what is written by the program and not by the model is on standard error"},
    {"-j", "--format takes a file with a JSON schema"},
    {"--json-schema", "--format takes a file with a JSON schema"},
    {"-e", "texts are taken as they are; $'...' of the shell has line feeds and tabs"},
    {"--escape", "texts are taken as they are; $'...' of the shell has line feeds and tabs"},
    {"--no-warmup", "there is no warming up to be left out"},
    {"--insecure", "HYPURA_HUB=http://HOST is where models are pulled from"},
    {"--nowordwrap", "lines are never wrapped"},
};

static const struct pair commands_elsewhere[] = {
    {"show", "\"hypura inspect\" does that here"},
    {"info", "\"hypura inspect\" does that here"},
    {"estimate", "\"hypura inspect\" does that here"},
    {"ls", "\"hypura list\" does that here"},
    {"delete", "\"hypura rm\" does that here"},
    {"remove", "\"hypura rm\" does that here"},
    {"download", "\"hypura pull\" does that here"},
    {"chat", "\"hypura run\" does that here"},
    {"generate", "\"hypura run\" does that here"},
    {"cli", "\"hypura run\" does that here"},
    {"server", "\"hypura serve\" does that here"},
    {"start", "\"hypura serve\" does that here"},
    {"create", "POST /api/create of \"hypura serve\" does that"},
    {"cp", "POST /api/copy of \"hypura serve\" does that"},
    {"push", "hypura sends nothing anywhere"},
    {"convert", "hypura runs GGUF files and makes none; convert_hf_to_gguf.py of llama.cpp does"},
};

const char *option_of_others(size_t index, const char *given)
{
    for (size_t i = 0; i < COUNT_OF(same); i++)
        if (strcmp(same[i].given, given) == 0 && index-- == 0)
            return same[i].here;
    return NULL;
}

static const char *look_up(const struct pair *pairs, size_t count, const char *given)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(pairs[i].given, given) == 0)
            return pairs[i].here;
    return NULL;
}

const char *option_hint(const char *given)
{
    return look_up(differs, COUNT_OF(differs), given);
}

const char *command_hint(const char *given)
{
    return look_up(commands_elsewhere, COUNT_OF(commands_elsewhere), given);
}

#define WORD_ROOM 32

/* Letters to change, insert, leave out or swap with their neighbour; WORD_ROOM: too many. */
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][WORD_ROOM + 1], n = strlen(a), m = strlen(b);
    if (n >= WORD_ROOM || m >= WORD_ROOM)
        return WORD_ROOM;
    for (size_t j = 0; j <= m; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *now = rows[i % 3], *before = rows[(i + 2) % 3], *earlier = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            now[j] = MIN(MIN(now[j - 1], before[j]) + 1, before[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = MIN(now[j], earlier[j - 2] + 1);
        }
    }
    return rows[n % 3][m];
}

void nearest_consider(struct nearest *nearest, const char *given, const char *name)
{
    size_t length = strlen(given), far = distance(given, name);
    size_t most = MIN((size_t)2, length / 3); /* of a short word every other is near */
    /* The beginning of a word means it, however much is missing. */
    if (length >= 3 && strncmp(given, name, length) == 0)
        far = 0;
    if (far <= most && (!nearest->name || far < nearest->distance))
        *nearest = (struct nearest){name, far};
}
