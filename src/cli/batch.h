/* hypura batch: lines of requests in, lines of answers out. */
#ifndef HYPURA_CLI_BATCH_H
#define HYPURA_CLI_BATCH_H

#include "cli/cli.h"

#define BATCH_LINE_LIMIT ((uint64_t)32 << 20) /* bytes of a request, as the server has it */
#define BATCH_DIGEST 17                       /* 16 digits and a NUL */

/* ---- batch_input.c: the file that the requests come from ---- */

struct batch_input;

/* A line that is not blank, until the next is read. */
struct batch_text {
    uint64_t number; /* from 1, those that are blank counted */
    uint64_t size;
    const char *text; /* NULL: it has more than BATCH_LINE_LIMIT bytes */
    char digest[BATCH_DIGEST];
};

enum batch_reading { BATCH_LATER, BATCH_LINE, BATCH_ENDED };

/* "-" is standard input. */
hypura_status batch_input_open(struct batch_input **out, const char *path, hypura_error *error);
void batch_input_close(struct batch_input *input);

/* Lines that are not blank; 0: not known. */
uint64_t batch_input_lines(const struct batch_input *input);

/* BATCH_LATER: no whole line came within this many milliseconds (-1: no limit), or a signal came. */
hypura_status batch_input_next(struct batch_input *input, int milliseconds, enum batch_reading *reading,
                               struct batch_text *out, hypura_error *error);

/* ---- batch_line.c: what a line asks, and how its answer is written ---- */

struct batch_line {
    uint64_t number; /* in the input, from 1 */
    char digest[BATCH_DIGEST];
    json_t *id;       /* "custom_id", or NULL */
    const char *path; /* that is asked */
    bool plain;       /* not in the shape of OpenAI's batches: its answer is plain, too */
};

/* Fields of every request that does not have them; and a system message, or NULL. */
struct batch_defaults {
    const json_t *fields;
    const char *system;
    uint32_t max_tokens; /* 0: none */
};

/* The body to send, a new reference; NULL with an error that is the line's own fault. text: NULL for a line
 * that is too long. The line's id is to be
 * freed either way. */
json_t *batch_read_line(struct batch_line *line, const char *text, size_t size,
                        const struct batch_defaults *defaults, hypura_error *error);

/* What is written for it, a new reference: of an answer with its status, or of an error. */
json_t *batch_answer(const struct batch_line *line, unsigned status, const char *text, size_t size);
json_t *batch_error(const struct batch_line *line, const char *message);

/* ---- batch_output.c: the file that the answers go to ---- */

struct batch_output;

/* With what an earlier run left there: a line that was not written to its end is cut off. One process at a time. "-" is
 * standard output, of which nothing is read: one that is appended to a file with something in it is an error. */
hypura_status batch_output_open(struct batch_output **out, const char *path, hypura_error *error);
void batch_output_close(struct batch_output *output);
bool batch_output_is_standard(const struct batch_output *output);

/* Lines that are answered. */
size_t batch_output_count(const struct batch_output *output);

/* Whether a line was answered by an earlier run. An error: what stands there answers another line. */
hypura_status batch_output_has(struct batch_output *output, uint64_t number, const char *digest, bool *has,
                               hypura_error *error);

/* A whole line or, with an error, nothing of it. */
hypura_status batch_output_write(struct batch_output *output, uint64_t number, const json_t *json, hypura_error *error);

/* Puts the lines in the order of the input. After an error all is as it was. */
hypura_status batch_output_sort(struct batch_output *output, hypura_error *error);

#endif
