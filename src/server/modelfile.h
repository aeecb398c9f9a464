/* Parses Ollama's Modelfiles: FROM, SYSTEM, TEMPLATE, LICENSE, ADAPTER, PARAMETER and MESSAGE, one per line, or with a
 * text of several lines between """ or ". */
#ifndef HYPURA_SERVER_MODELFILE_H
#define HYPURA_SERVER_MODELFILE_H

#include "core/core.h"

#include <jansson.h>

/* Adds the instructions to an object, as the fields of POST /api/create. False with an error if the text is invalid. */
bool modelfile_read(const char *text, json_t *fields, hypura_error *error);

/* A JSON integer if the value is whole, else a JSON real. */
json_t *number_json(double value);

#endif
