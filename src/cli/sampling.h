/* Sampling options of the command line, as the library's requests take them. */
#ifndef HYPURA_CLI_SAMPLING_H
#define HYPURA_CLI_SAMPLING_H

#include "cli/cli.h"

extern const struct option_row sampling_rows[];

/* Zero-initialise before sampling_open; close even after an error. */
struct sampling {
    hypura_sampling settings;
    hypura_logit_bias *biases;
    hypura_form form;
    char *form_text; /* read from a file, or NULL */
};

void sampling_prepare(void); /* defaults, before options are parsed */
hypura_status sampling_open(struct sampling *sampling, hypura_model *model, hypura_error *error);
void sampling_close(struct sampling *sampling);

/* Changes one numeric setting of sampling_rows, between answers. An error changes nothing. */
hypura_status sampling_set(struct sampling *sampling, hypura_model *model, const char *name, const char *value,
                           hypura_error *error);
/* Like --format. Keeps value; NULL removes the restriction. */
hypura_status sampling_set_format(struct sampling *sampling, hypura_model *model, const char *value,
                                  hypura_error *error);

/* Fills the request's sampling and form, which it points to until the answer is started. */
void sampling_fill(const struct sampling *sampling, hypura_request *request);

#endif
