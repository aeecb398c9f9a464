/* What the files of POST /api/create share. */
#ifndef HYPURA_SERVER_CREATE_H
#define HYPURA_SERVER_CREATE_H

#include "server/exchange.h"

struct new_quantized {
    const char *name;   /* of the model that is made */
    const char *source; /* its first file */
    const char *type;   /* as quantize.h takes it */
    bool stream;        /* tell how far it is */
};

/* Writes a file to make a model of, in the folder of blobs, with memory of the budget. Without a client it ends, and
 * the same request goes on from there, within a day. */
hypura_status create_quantized(struct exchange *exchange, const struct new_quantized *wish, char *out, size_t room,
                               hypura_error *error);

#endif
