/* A Modelfile, as Ollama has them: FROM, SYSTEM, TEMPLATE, LICENSE, ADAPTER, PARAMETER and MESSAGE, one per line, or
 * with a text between quotes, """ or ". */
#ifndef HYPURA_SERVER_MODELFILE_H
#define HYPURA_SERVER_MODELFILE_H

#include "core/core.h"

#include <jansson.h>

/* Adds what it says to an object as the fields that /api/create takes. False with an error when it is not one. */
bool modelfile_read(const char *text, json_t *fields, hypura_error *error);

/* A number as JSON, whole where it is. */
json_t *number_json(double value);

#endif
