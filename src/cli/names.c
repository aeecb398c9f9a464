/* Options and commands of llama.cpp and Ollama, and mistyped ones. Options with the same meaning are accepted; for
 * others, the error names what hypura has instead. */
#include "cli/cli.h"

#include <string.h>

struct pair {
    const char *given, *here;
};

/* The first row whose option the command has applies. */
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
    {"--guess", "prefetch"}, /* its former name */
};

/* Advice for what has no equivalent option. */
static const char gpu_layers[] = "layers go to the GPU automatically; --gpu-memory SIZE limits that, --gpu none "
                                 "prevents it",
                  no_mapping[] = "hypura does not map files: it reads weights into its own memory, limited by "
                                 "--memory",
                  fetching[] = "\"hypura pull hf.co/USER/REPOSITORY\" downloads a model; then use the name that "
                               "\"hypura list\" shows",
                  experts[] = "experts are placed automatically, within --memory and --gpu-memory",
                  attention[] = "hypura always computes attention in one pass over the cache",
                  figures[] = "--map shows statistics of a run, --stats FILE writes them to a file",
                  drafts[] = "hypura chooses the number of drafted tokens by measuring; --drafting off drafts none",
                  thinking[] = "--var enable_thinking=true or =false sets it for models that support it";

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
    {"-ctk", "--kv-type sets the type of keys and values"},
    {"--cache-type-k", "--kv-type sets the type of keys and values"},
    {"-ctv", "--kv-type sets the type of keys and values"},
    {"--cache-type-v", "--kv-type sets the type of keys and values"},
    {"--verbose", figures},
    {"-v", figures},
    {"--draft-max", drafts},
    {"--draft-min", drafts},
    {"--draft-n", drafts},
    {"--draft-p-min", drafts},
    {"--spec-type", drafts},
    {"--think", thinking},
    {"--reasoning-budget", thinking},
    {"-no-cnv", "--raw continues a text without a chat template"},
    {"--no-conversation", "--raw continues a text without a chat template"},
    {"--color", "only the model's answer goes to standard output; everything else goes to standard error"},
    {"-j", "--format takes a file with a JSON schema"},
    {"--json-schema", "--format takes a file with a JSON schema"},
    {"-e", "hypura takes texts literally; write line feeds and tabs as $'...' in the shell"},
    {"--escape", "hypura takes texts literally; write line feeds and tabs as $'...' in the shell"},
    {"--no-warmup", "hypura does no warm-up"},
    {"--insecure", "set HYPURA_HUB=http://HOST to pull from a server without TLS"},
    {"--nowordwrap", "hypura never wraps lines"},
};

static const struct pair commands_elsewhere[] = {
    {"show", "\"hypura inspect\" does that here"},
    {"info", "\"hypura inspect\" does that here"},
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
    {"push", "hypura does not upload models"},
    {"convert", "hypura does not convert models to GGUF; convert_hf_to_gguf.py of llama.cpp does"},
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

/* How many letters to change, insert, delete or swap with their neighbour; WORD_ROOM: a word is too long. */
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
    size_t most = MIN((size_t)2, length / 3); /* almost any word is near to a short one */
    /* The beginning of a name stands for it, however much is missing. */
    if (length >= 3 && strncmp(given, name, length) == 0)
        far = 0;
    if (far <= most && (!nearest->name || far < nearest->distance))
        *nearest = (struct nearest){name, far};
}
