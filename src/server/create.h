/* Shared by the files of POST /api/create. */
#ifndef HYPURA_SERVER_CREATE_H
#define HYPURA_SERVER_CREATE_H

#include "server/exchange.h"

struct new_quantized {
    const char *name;   /* of the new model */
    const char *source; /* path of the (first) file to quantize */
    const char *type;   /* as in quantize.h */
    bool stream;        /* report progress */
};

/* Quantizes source into a file in the folder of blobs and writes its path to out. Its memory is part of the budget.
 * Stops when the client leaves; the same request continues the file within a day. */
hypura_status create_quantized(struct exchange *exchange, const struct new_quantized *wish, char *out, size_t room,
                               hypura_error *error);

#endif
