/* hypura batch: reads lines with requests and writes lines with answers. */
#ifndef HYPURA_CLI_BATCH_H
#define HYPURA_CLI_BATCH_H

#include "cli/cli.h"

#define BATCH_LINE_LIMIT ((uint64_t)32 << 20) /* bytes per request, as in the server */
#define BATCH_DIGEST 17                       /* 16 digits and a NUL */

/* ---- batch_input.c: the file with the requests ---- */

struct batch_input;

/* A line that is not blank; valid until the next one is read. */
struct batch_text {
    uint64_t number; /* from 1; blank lines count */
    uint64_t size;
    const char *text; /* NULL: longer than BATCH_LINE_LIMIT */
    char digest[BATCH_DIGEST];
};

enum batch_reading { BATCH_LATER, BATCH_LINE, BATCH_ENDED };

/* "-" is standard input. */
hypura_status batch_input_open(struct batch_input **out, const char *path, hypura_error *error);
void batch_input_close(struct batch_input *input);

/* The number of lines that are not blank; 0: unknown. */
uint64_t batch_input_lines(const struct batch_input *input);

/* Reads the next line. BATCH_LATER: no complete line came within this many milliseconds (-1: no limit), or a signal
 * came. BATCH_ENDED: there are no more lines. */
hypura_status batch_input_next(struct batch_input *input, int milliseconds, enum batch_reading *reading,
                               struct batch_text *out, hypura_error *error);

/* ---- batch_line.c: parses a request, and writes its answer ---- */

struct batch_line {
    uint64_t number; /* in the input, from 1 */
    char digest[BATCH_DIGEST];
    json_t *id;       /* "custom_id", or NULL */
    const char *path; /* of the endpoint */
    bool plain;       /* not a line of an OpenAI batch; its answer is not one either */
};

/* Defaults for requests that do not set these. */
struct batch_defaults {
    const json_t *fields;
    const char *system;  /* or NULL */
    uint32_t max_tokens; /* 0: no limit */
};

/* Fills line, and returns the body to send as a new reference. NULL with an error: the line is invalid. text: NULL for
 * a line that is too long. The caller releases line->id in either case. */
json_t *batch_read_line(struct batch_line *line, const char *text, size_t size, const struct batch_defaults *defaults,
                        hypura_error *error);

/* The output line for a reply with its status, or for an error, as a new reference. */
json_t *batch_answer(const struct batch_line *line, unsigned status, const char *text, size_t size);
json_t *batch_error(const struct batch_line *line, const char *message);

/* ---- batch_output.c: the file with the answers ---- */

struct batch_output;

/* Opens the output and reads what an earlier run left there; an incomplete last line is cut off. Only one process at a
 * time can open a file. "-" is standard output, which cannot be read: it is an error if it appends to a file that is
 * not empty. */
hypura_status batch_output_open(struct batch_output **out, const char *path, hypura_error *error);
void batch_output_close(struct batch_output *output);
bool batch_output_is_standard(const struct batch_output *output);

/* The number of lines that are answered. */
size_t batch_output_count(const struct batch_output *output);

/* Whether an earlier run answered this line. It is an error if its answer there belongs to a different line. */
hypura_status batch_output_has(struct batch_output *output, uint64_t number, const char *digest, bool *has,
                               hypura_error *error);

/* Writes a whole line or, with an error, nothing. */
hypura_status batch_output_write(struct batch_output *output, uint64_t number, const json_t *json, hypura_error *error);

/* Puts the lines in the order of the input. An error changes nothing. */
hypura_status batch_output_sort(struct batch_output *output, hypura_error *error);

#endif
