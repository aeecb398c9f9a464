/* How a command that generates chooses tokens: options of the command line, as a request of the library has them. */
#ifndef HYPURA_CLI_SAMPLING_H
#define HYPURA_CLI_SAMPLING_H

#include "cli/cli.h"

extern const struct option_row sampling_rows[];

/* Zero-initialised before sampling_open; closed after an error too. */
struct sampling {
    hypura_sampling settings;
    hypura_logit_bias *biases;
    hypura_form form;
    char *form_text; /* of a file, or NULL */
};

void sampling_prepare(void); /* defaults, before options are parsed */
hypura_status sampling_open(struct sampling *sampling, hypura_model *model, hypura_error *error);
void sampling_close(struct sampling *sampling);

/* Changes one setting of sampling_rows that is a number, between answers; after an error all is as before. */
hypura_status sampling_set(struct sampling *sampling, hypura_model *model, const char *name, const char *value,
                           hypura_error *error);
/* As --format, with a text that lives on; NULL: no longer. */
hypura_status sampling_set_format(struct sampling *sampling, hypura_model *model, const char *value,
                                  hypura_error *error);

/* Its fields of a request, which needs them until it is started. */
void sampling_fill(const struct sampling *sampling, hypura_request *request);

#endif
