/* libFuzzer target: a Modelfile. */
#include "fuzz.h"

#include "server/modelfile.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    json_t *fields = json_object();
    hypura_error error = {0};
    must(text && fields);
    memcpy(text, data, size);
    text[size] = 0;
    bool fine = modelfile_read(text, fields, &error);
    must(fine || error.message[0]);
    /* The result can be stored as JSON. */
    char *kept = json_dumps(fields, JSON_COMPACT);
    must(kept);
    free(kept);
    json_decref(fields);
    free(text);
    return 0;
}
