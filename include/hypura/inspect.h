/* What a file holds, and what the library would do with it here, in full. hypura/plan.h has what most programs need.
 *
 * What these functions tell is one JSON object, as "hypura inspect --json" prints it: its keys stay, and more may come.
 * They read headers and no weights, and any thread may call them.
 */
#ifndef HYPURA_API_INSPECT_H
#define HYPURA_API_INSPECT_H

#include <hypura/error.h>
#include <hypura/options.h>

HYPURA_BEGIN

typedef struct hypura_inspection {
    size_t struct_size;
    bool tensors;            /* with "tensors": each with its type, shape, bytes and place */
    bool layers;             /* with "steps": what layers do, and with which tensors */
    bool one_layer;          /* only layer of them */
    uint32_t layer;          /* from 0 */
    const char *preset;      /* a model of a geometry that "hypura synth --list" names, without a file; path is NULL then */
    const char *preset_type; /* of its weights, such as "Q4_K_M"; NULL: the usual one */
} hypura_inspection;

/* The file's metadata, sizes by role, and the plan that hypura_open would follow with these options. options and what
 * may be NULL. *json is the caller's (hypura_free). */
HYPURA_API hypura_status hypura_inspect(const char *path, const hypura_options *options, const hypura_inspection *what,
                                        char **json, hypura_error *error);

/* ---- several hosts, which need not be there --------------------------------------------------------------------------
 */

/* The plan of the hosts that the JSON file hosts_path describes ("hypura inspect --help" says how). Of options what is
 * about a machine is not read, and memory_bytes is 0: the file says what each host has. Of what only the preset is
 * read. *json is the caller's. */
HYPURA_API hypura_status hypura_inspect_hosts(const char *path, const char *hosts_path, const hypura_options *options,
                                              const hypura_inspection *what, char **json, hypura_error *error);

/* Writes what one of these hosts serves of the model to out_path, in the model's layout with holes for the rest.
 * on_progress (NULL is fine) is called on this thread with the bytes done and to do, first while they are copied, then
 * while they are checked; false ends it with HYPURA_ERROR_CANCELLED. */
HYPURA_API hypura_status hypura_write_part(const char *path, const char *hosts_path, const hypura_options *options,
                                           const char *host, const char *out_path,
                                           bool (*on_progress)(void *context, bool checking, uint64_t done, uint64_t all),
                                           void *context, hypura_error *error);

HYPURA_END
#endif
