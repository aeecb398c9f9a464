/* cli: the program. One file a command; this header is what the commands share.
 *
 * A command describes its options in tables; parsing, --help and the shell completions all come from these, so that
 * they cannot drift apart. Only an answer goes to standard output; progress, notes and errors go to standard error.
 */
#ifndef HYPURA_CLI_H
#define HYPURA_CLI_H

#include "cli/base.h"

#include <hypura/hypura.h>
#include <jansson.h>
#include <stdio.h>

/* Exit statuses of the program. */
enum {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_INTERRUPTED = 130 /* as a shell reports SIGINT */
};

enum option_kind {
    OPTION_FLAG,  /* bool: present or not */
    OPTION_WHICH, /* struct which: present, perhaps with a whole number behind it */
    OPTION_TEXT,  /* const char * */
    OPTION_TEXTS, /* struct texts: may be given several times */
    OPTION_BYTES, /* uint64_t: "4G" */
    OPTION_SIZES, /* struct sizes: "4G", or "4G,8G" */
    OPTION_COUNT, /* uint32_t */
    OPTION_LIMIT, /* uint32_t: a negative number is none, which is 0 */
    OPTION_SEED,  /* uint64_t */
    OPTION_NUMBER /* float */
};

/* As many as there are devices in a machine (hw/hw.h). */
#define MOST_SIZES 8

struct sizes {
    size_t count;
    uint64_t bytes[MOST_SIZES];
};

struct texts {
    const char **items;
    size_t count;
};

struct which {
    bool given, one;
    uint32_t number; /* where one is meant */
};

struct option_row {
    const char *name;     /* without the dashes */
    const char *argument; /* "SIZE" for the help; NULL for a flag */
    enum option_kind kind;
    void *target; /* where the value goes; what stands there before is the default */
    const char *help;
};

/* A table that ends with a row without a name. */
struct command {
    const char *name;
    const char *arguments;               /* "[MODEL]" */
    const char *summary;                 /* one line, lower case, no full stop */
    const char *details;                 /* paragraphs for --help, or NULL */
    const struct option_row *options[8]; /* tables, NULL after the last */
    size_t least, most;                  /* positional arguments */
    bool lives_on;                       /* where memory is wanting for a part of what it does */
    void (*prepare)(void);               /* sets defaults before options are parsed, or NULL */
    int (*run)(size_t count, char **arguments);
};

extern const struct command command_run, command_batch, command_inspect, command_tokenize, command_template,
    command_perplexity, command_logits, command_embed, command_synth, command_profile, command_iobench, command_replay,
    command_bench, command_plot, command_completion, command_manual, command_serve, command_list, command_pull,
    command_rm, command_ps, command_stop;
extern const struct command command_quantize, command_optimize, command_imatrix, command_compare, command_estimate;

extern const struct command *const commands[];
extern const size_t command_count;

/* Parses and runs one command; returns the exit status. */
int command_main(const struct command *command, int count, char **arguments);
void command_help(const struct command *command, FILE *out);

/* Sets the target of an option from text. */
bool set_option(const struct option_row *row, const char *text, hypura_error *error);

/* What a table of options that several commands have is about; NULL for one that a command has alone. */
const char *option_table_title(const struct option_row *rows);

/* What an option of llama.cpp or Ollama, such as "-n", is called here: the one of that index, as one letter means
 * different things to different commands; NULL after the last. */
const char *option_of_others(size_t index, const char *given);

/* What to do instead of an option or a command of theirs that is not here; or NULL. */
const char *option_hint(const char *given);
const char *command_hint(const char *given);

/* The name that is so like the one that was given that it may have been meant; zero-initialised before. */
struct nearest {
    const char *name; /* NULL: none */
    size_t distance;
};
void nearest_consider(struct nearest *nearest, const char *given, const char *name);

/* "hypura: SENTENCE" on standard error; returns the exit status for the error. */
int report_error(const hypura_error *error);
int report_usage(const struct command *command, const char *format, ...) PRINTF_LIKE(2, 3);

/* ---- options of every command that computes
 * --------------------------------------------------------------------------- */

struct compute_options {
    uint64_t memory;
    struct sizes gpu_memory;
    const char *memory_file, *gpu;
    uint32_t threads;
    uint32_t context;
    uint32_t chunk;
    uint32_t sequences; /* hypura bench only */
    const char *kv_type;
    const char *reader;
    const char *prefetch;
    const char *cache_policy;
    const char *fill;
    const char *overlap;
    const char *draft, *drafting; /* hypura run and serve only */
    uint32_t depth;
    struct texts adapters, mirrors;
    const char *prefix_cache; /* DIR or DIR:SIZE */
    uint64_t prefix_memory;
    bool no_state, gpu_fixed, no_prefixes;
    uint64_t seed;
    const char *stats;
    const char *trace; /* hypura run only */
    bool progress;
};

extern struct compute_options compute_options;
extern const struct option_row plan_option_rows[];   /* what the plan depends on: --memory --threads --context ... */
extern const struct option_row engine_option_rows[]; /* how it is carried out: --reader --prefetch --lora ... */
extern const struct option_row draft_option_rows[];  /* tokens ahead: --draft --drafting */
extern const struct option_row prefix_option_rows[]; /* what was read before: --prefix-cache ... */
extern const struct option_row report_option_rows[]; /* --stats --progress */

/* What the command line asked for, as programs ask the library; answers at once: 1, unless --sequences says more.
 * *adapters is to be freed (memory_free). */
hypura_status given_options(hypura_options *out, hypura_adapter **adapters, hypura_error *error);

/* The line that tells how a model is being loaded, in a terminal; and an interrupt ends the loading anywhere. clear_line
 * ends it. */
struct load_line {
    uint64_t start, last;
};
void load_line_start(struct load_line *line, hypura_options *options);

/* Opens a model (as model_path takes it) and a session under these options, with a progress line while it loads.
 * Interrupts cancel the session. Both are to be closed after an error too; NULL before. MEASURES: no text is generated,
 * and all weights are there; ANSWERS: it may draft, and answers while weights still come. */
enum open_for { OPEN_MEASURES, OPEN_ANSWERS };
hypura_status open_model(hypura_model **out, hypura_session **session, const char *model, enum open_for what,
                         hypura_error *error);

/* And what --progress started; after an interrupt what need not wait for the drive. NULL is fine. */
void close_model(hypura_model *model, hypura_session *session);

/* Only what reads and writes texts, without the weights. */
hypura_status open_texts(hypura_model **out, const char *model, hypura_error *error);

/* Some lines about a model. */
void print_summary(FILE *out, const hypura_model_info *model);

/* Where its weights are now, a bar per layer. */
void draw_tier_map(FILE *out, hypura_model *model);

/* The line of --progress, from a thread of its own. While it is paused nothing is shown. */
void progress_start(hypura_model *model);
void progress_pause(bool pause);
void progress_stop(void);

/* In a terminal, without --progress: a line that tells how far the reading of a prompt has come, until the first token,
 * or the end. tokens: of the prompt, that have not been read before. */
void prompt_line_start(hypura_model *model, uint32_t tokens);
void prompt_line_stop(void);

/* SIGUSR1 changes the memory budget. Prepare at the start of the program, and stop before the model is closed. model
 * NULL: of the server. */
void live_memory_prepare(void);
void live_memory_start(hypura_model *model);
void live_memory_start_endpoint(hypura_endpoint *endpoint);
void live_memory_stop(void);
hypura_status memory_from_file(uint64_t *out, const char *path, hypura_error *error);

/* Writes --stats, when asked for. Returns false after reporting that it could not. */
bool write_model_statistics(hypura_model *model);

/* One JSON object with the project's stable keys; NULL where memory was wanting. */
json_t *model_statistics_json(hypura_model *model);

/* A JSON string of a text that may not be UTF-8 (text_clean). */
json_t *json_text(const char *text);

/* Prints a JSON value to standard output, with a newline. */
void print_json(const json_t *value);

/* The file of a model that was given on the command line: a path, or a name as "hypura list" tells them. NULL: the
 * default model. *path is static, or given itself. */
hypura_status model_path(const char **path, const char *given, const char *folder, hypura_error *error);
#define MODEL_HELP "MODEL is a GGUF file, or a name of the model folder, as \"hypura list\" tells them. "

/* The model that runs when none is named: $HYPURA_MODEL, else the embedded one next to the program or where it was
 * installed. NULL with an error when it is not found. */
const char *default_model_path(hypura_error *error);

/* ---- interrupts
 * -------------------------------------------------------------------------------------------------------- */

/* From now on the first SIGINT cancels the session and sets interrupted(); the second ends the program. NULL: before
 * the session is closed. */
void interrupts_cancel_session(hypura_session *session);
bool interrupted(void);

/* While a line editor has changed the terminal, no interrupt ends the program. */
void interrupts_wait_for_line(bool wait);

/* Until there is something to read; false after an interrupt. */
bool interrupts_wait_for_input(int file);

/* ---- reading and drawing
 * ------------------------------------------------------------------------------------------------ */

/* All of a file, or of standard input for "-"; NUL-terminated; at most limit bytes. */
hypura_status read_whole_file(const char *path, uint64_t limit, char **text, size_t *size, hypura_error *error);

/* NAME=VALUE as the members of an object: JSON where the value is JSON, else text. NULL when there are none. */
hypura_status named_values(const char *option, const struct texts *given, json_t **out, hypura_error *error);
#define TEMPLATE_VARIABLES_HELP "a variable of the chat template, such as enable_thinking=false; may be repeated"

/* A bar a layer: what is pinned in memory, what is cached, what is on disk. A row for each layer, and one more for what
 * belongs to none. The sums go to the end of the line that was begun. */
enum map_place { MAP_GPU, MAP_MEMORY, MAP_CACHED, MAP_STORAGE, MAP_PLACES };
struct layer_places {
    uint64_t bytes[MAP_PLACES];
};
void draw_places_of_layers(FILE *out, const struct layer_places *rows, uint32_t layers);

/* Whether lines can be redrawn there; whether colours are wanted besides; and whether characters beyond ASCII are. */
bool is_terminal(FILE *file);
bool use_colour(FILE *file);
bool use_blocks(void);

/* A line of standard error in place of the one before, cut to the terminal's width; elsewhere it does nothing. Between
 * answer_starts and answer_ends it leaves what show_answer writes to standard output alone, which may be the same
 * terminal. From any thread. answer_ends ends a line that was begun. */
void show_line(const char *format, ...) PRINTF_LIKE(1, 2);
void clear_line(void);
void answer_starts(void);
void show_answer(const char *text, size_t size);
void answer_ends(void);

/* "12 s", "4 min", "3 h 20 min" */
const char *format_time(char *out, size_t room, double seconds);

/* Columns of a line there. */
int text_width(FILE *file);

/* Wrapped, from a line that has this many columns already, which later ones are indented by; ends the line. */
void print_paragraph(FILE *out, const char *text, int indent);

/* A bar of this share of the width, in eighths of a cell, and blanks for the rest. */
void draw_bar(FILE *out, double share, int width);

#endif
