/* cli: the program. Each command has its own file; this header is what they share.
 *
 * A command describes its options in tables. Parsing, --help, the man pages and the shell completions all come from
 * these tables, so they cannot disagree. Only results go to standard output; progress, notes and errors go to standard
 * error.
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
    OPTION_WHICH, /* struct which: present, optionally followed by a whole number */
    OPTION_TEXT,  /* const char * */
    OPTION_TEXTS, /* struct texts: may be repeated */
    OPTION_BYTES, /* uint64_t: "4G" */
    OPTION_SIZES, /* struct sizes: "4G", or "4G,8G" */
    OPTION_COUNT, /* uint32_t */
    OPTION_LIMIT, /* uint32_t: a negative number means no limit and becomes 0 */
    OPTION_SEED,  /* uint64_t */
    OPTION_NUMBER /* float */
};

/* As many as HARDWARE_MAX_GPUS (hw/hw.h). */
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
    uint32_t number; /* if one */
};

struct option_row {
    const char *name;     /* without the dashes */
    const char *argument; /* "SIZE" for the help; NULL for a flag */
    enum option_kind kind;
    void *target; /* where the value goes; initially the default */
    const char *help;
};

/* Tables of options end with a row without a name. */
struct command {
    const char *name;
    const char *arguments;               /* "[MODEL]" */
    const char *summary;                 /* one line, lower case, no full stop */
    const char *details;                 /* paragraphs for --help, or NULL */
    const struct option_row *options[8]; /* tables, NULL after the last */
    size_t least, most;                  /* positional arguments */
    bool lives_on;                       /* neither a lack of memory nor the loss of a host ends it */
    bool leaves_gpus;                    /* without --gpu, it uses none */
    void (*prepare)(void);               /* sets defaults before options are parsed, or NULL */
    int (*run)(size_t count, char **arguments);
};

extern const struct command command_run, command_batch, command_inspect, command_tokenize, command_template,
    command_perplexity, command_logits, command_embed, command_synth, command_profile, command_iobench, command_replay,
    command_bench, command_plot, command_completion, command_manual, command_serve, command_list, command_pull,
    command_rm, command_ps, command_stop;
extern const struct command command_quantize, command_optimize, command_imatrix, command_compare, command_estimate;

/* All of them; main sets this first. */
extern const struct command *const *commands;
extern size_t command_count;

/* Parses and runs one command; returns the exit status. */
int command_main(const struct command *command, int count, char **arguments);
void command_help(const struct command *command, FILE *out);

/* Sets the target of an option from text. */
bool set_option(const struct option_row *row, const char *text, hypura_error *error);

/* The heading of a table of options that several commands share; NULL for a command's own table. */
const char *option_table_title(const struct option_row *rows);

/* The name that an option of llama.cpp or Ollama, such as "-n", has here. One letter may have several, for different
 * commands: this returns the one of that index, NULL after the last. */
const char *option_of_others(size_t index, const char *given);

/* What to use instead of an option or command of theirs that hypura lacks; NULL: no advice. */
const char *option_hint(const char *given);
const char *command_hint(const char *given);

/* Finds the known name that is nearest to a mistyped one. Zero-initialise it, then consider each known name. */
struct nearest {
    const char *name; /* NULL: none is near */
    size_t distance;
};
void nearest_consider(struct nearest *nearest, const char *given, const char *name);

/* Print "hypura: MESSAGE", or a message with the usage, to standard error. They return the exit status. */
int report_error(const hypura_error *error);
int report_usage(const struct command *command, const char *format, ...) PRINTF_LIKE(2, 3);

/* ---- options of commands that compute ---------------------------------------------------------------------------- */

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
    const char *trace; /* hypura run and bench only */
    bool progress;
};

extern struct compute_options compute_options;
extern const struct option_row plan_option_rows[];   /* what the plan depends on: --memory, --threads, --context, ... */
extern const struct option_row engine_option_rows[]; /* how it is carried out: --reader, --prefetch, --lora, ... */
extern const struct option_row draft_option_rows[];  /* --draft, --drafting */
extern const struct option_row prefix_option_rows[]; /* --prefix-cache, ... */
extern const struct option_row report_option_rows[]; /* --stats, --progress */

/* The options of the command line as options of the library. sessions is compute_options.sequences, at least 1. The
 * caller frees *adapters (free_memory). */
hypura_status given_options(hypura_options *out, hypura_adapter **adapters, hypura_error *error);

/* Sets on_load: in a terminal, it shows how far a model is loaded; anywhere, an interrupt ends the loading. Call
 * clear_line afterwards. */
struct load_line {
    uint64_t start, last;
};
void load_line_start(struct load_line *line, hypura_options *options);

/* Opens a model (see model_path) and a session with the options of the command line, and shows a progress line while it
 * loads. Interrupts cancel the session. *out and *session must be NULL before; close both even after an error.
 * OPEN_MEASURES loads all weights and never drafts. OPEN_ANSWERS may draft, and answers while weights are still being
 * loaded. */
enum open_for { OPEN_MEASURES, OPEN_ANSWERS };
hypura_status open_model(hypura_model **out, hypura_session **session, const char *model, enum open_for what,
                         hypura_error *error);

/* Closes both, and ends the line of --progress. After an interrupt, it does not wait for reads in flight. Both may be
 * NULL. */
void close_model(hypura_model *model, hypura_session *session);

/* Opens a model for hypura/text.h only, without its weights. */
hypura_status open_texts(hypura_model **out, const char *model, hypura_error *error);

/* Prints a few lines about a model. */
void print_summary(FILE *out, const hypura_model_info *model);

/* Draws where the weights are now, with a bar per layer. */
void draw_tier_map(FILE *out, hypura_model *model);

/* Shows the line of --progress from its own thread, except while paused. */
void progress_start(hypura_model *model);
void progress_pause(bool pause);
void progress_stop(void);

/* In a terminal without --progress: shows how much of the prompt has been read. Stop it at the first token, or at the
 * end. tokens: those of the prompt that must be computed. */
void prompt_line_start(hypura_model *model, uint32_t tokens);
void prompt_line_stop(void);

/* SIGUSR1 changes the memory budget of the model, or of the server if model is NULL. Prepare at the start of the
 * program, and stop before closing the model. */
void live_memory_prepare(void);
void live_memory_start(hypura_model *model, const char *memory_file);
void live_memory_start_endpoint(hypura_endpoint *endpoint, const char *memory_file);
void live_memory_stop(void);
hypura_status memory_from_file(uint64_t *out, const char *path, hypura_error *error);

/* Writes the file of --stats, if given. Returns false after reporting an error. */
bool write_model_statistics(hypura_model *model);

/* The statistics as one JSON object; NULL: out of memory. */
json_t *model_statistics_json(hypura_model *model);

/* A JSON string from text that may not be valid UTF-8 (see clean_text). */
json_t *json_text(const char *text);

/* Prints a JSON value to standard output, with a newline. */
void print_json(const json_t *value);

/* Finds the file of a model given on the command line: a path, or a name that "hypura list" shows; NULL: the default
 * model. *path is given itself, or static and valid until the next call. */
hypura_status model_path(const char **path, const char *given, const char *folder, hypura_error *error);
#define MODEL_HELP "MODEL is a GGUF file, or a name that \"hypura list\" shows. "

/* The model that is used if none is named: $HYPURA_MODEL, else the embedded one next to the program or where it was
 * installed. NULL with an error if it is not found. */
const char *default_model_path(hypura_error *error);

/* ---- interrupts -------------------------------------------------------------------------------------------------- */

/* From now on, the first SIGINT cancels the session and sets interrupted(); the second ends the program. Call it with
 * NULL before closing the session. */
void interrupts_cancel_session(hypura_session *session);
bool interrupted(void);

/* While wait is set, no interrupt ends the program: the line editor must restore the terminal first. */
void interrupts_wait_for_line(bool wait);

/* Waits until the file can be read. Returns false after an interrupt. */
bool interrupts_wait_for_input(int file);

/* ---- reading and drawing ----------------------------------------------------------------------------------------- */

/* Reads a whole file, or standard input for "-", of at most limit bytes. The caller frees *text (free_memory), which is
 * NUL-terminated. */
hypura_status read_whole_file(const char *path, uint64_t limit, char **text, size_t *size, hypura_error *error);

/* Makes an object of NAME=VALUE pairs. A value that is not JSON becomes a string. *out stays as it is if none are
 * given. option: its name, for errors. */
hypura_status named_values(const char *option, const struct texts *given, json_t **out, hypura_error *error);
#define TEMPLATE_VARIABLES_HELP "a variable of the chat template, such as enable_thinking=false; may be repeated"

/* Draws a bar per layer: on the GPU, pinned in memory, cached, on storage. rows[layers + 1], the last one for weights
 * outside layers. The totals complete the line that the caller has begun. */
enum map_place { MAP_GPU, MAP_MEMORY, MAP_CACHED, MAP_STORAGE, MAP_PLACES };
struct layer_places {
    uint64_t bytes[MAP_PLACES];
};
void draw_places_of_layers(FILE *out, const struct layer_places *rows, uint32_t layers);

/* Whether lines can be redrawn there, whether to use colours too, and whether to use characters beyond ASCII. */
bool is_terminal(FILE *file);
bool use_colour(FILE *file);
bool use_blocks(void);

/* show_line replaces the status line on standard error, cut to the terminal's width; without a terminal it does
 * nothing. show_answer writes a part of an answer to standard output. Between answer_starts and answer_ends, status
 * lines do not disturb the answer, which may be on the same terminal. answer_ends completes an unfinished line. Any
 * thread may call these. */
void show_line(const char *format, ...) PRINTF_LIKE(1, 2);
void clear_line(void);
void answer_starts(void);
void show_answer(const char *text, size_t size);
void answer_ends(void);

/* "12 s", "4 min", "3 h 20 min" */
const char *format_time(char *out, size_t room, double seconds);

/* Columns per line. */
int text_width(FILE *file);

/* Prints text wrapped, and ends the line. The current line already has indent columns; later lines are indented by as
 * many. */
void print_paragraph(FILE *out, const char *text, int indent);

/* Draws a bar that fills this share of the width, in eighths of a cell, and blanks for the rest. */
void draw_bar(FILE *out, double share, int width);

#endif
