/* Jobs that evaluate several texts, one after another, each in a context of its own: embeddings and reranking. */
#ifndef HYPURA_SERVER_TEXT_JOB_H
#define HYPURA_SERVER_TEXT_JOB_H

#include "server/worker.h"

struct text_job {
    struct job job; /* first */
    const struct text_job_kind *kind;
    const char *model_name; /* owned by the exchange */
    size_t count, done;     /* texts */
    uint64_t tokens;        /* of the texts that are done */
    uint64_t load_nanoseconds;
    struct token_array *prompts; /* of each text */
    hypura_status prepared;
    hypura_error error; /* of preparing them */
};

/* What differs between embeddings and reranking. */
struct text_job_kind {
    size_t size; /* of the struct that begins with a text_job */
    /* Reads the fields of the request and sets count. An error is answered with status 400. */
    hypura_status (*read)(struct text_job *texts, const json_t *json, hypura_error *error);
    /* Appends the tokens of a text, on a thread of the desk. */
    hypura_status (*tokenize)(struct text_job *texts, struct loaded_model *loaded, size_t index,
                              struct token_array *tokens, hypura_error *error);
    /* Allocates the results. */
    hypura_status (*begin)(struct text_job *texts, struct loaded_model *loaded, hypura_error *error);
    /* Computes the result of the next text, whose index is done. */
    hypura_status (*evaluate)(struct text_job *texts, struct loaded_model *loaded, const struct token_array *tokens,
                              hypura_error *error);
    void (*reply)(struct text_job *texts);
    void (*free_results)(struct text_job *texts);
};

/* Creates a job for the request of an exchange, zeroed beyond the text_job. NULL: answered with an error. */
struct text_job *text_job_create(struct exchange *exchange, const struct text_job_kind *kind);

/* Reads the request and hands the job to the worker, which owns it from then on; or answers with an error and frees the
 * job. */
void text_job_submit(struct text_job *texts);

#endif
