/* The contents of a model's file and the plan for it, in full. hypura/plan.h has what most programs need.
 *
 * The functions return one JSON object, as "hypura inspect --json" prints it. Later versions may add keys but do not
 * change any. hypura_inspect and hypura_inspect_hosts read only the file's header. Any thread may call these functions.
 */
#ifndef HYPURA_API_INSPECT_H
#define HYPURA_API_INSPECT_H

#include <hypura/error.h>
#include <hypura/options.h>

HYPURA_BEGIN

typedef struct hypura_inspection {
    size_t struct_size;
    bool tensors;            /* include "tensors": each with its type, shape, bytes and place */
    bool layers;             /* include "steps": what each layer does, and with which tensors */
    bool one_layer;          /* with layers: only the layer below */
    uint32_t layer;          /* from 0 */
    const char *preset;      /* inspect this geometry of "hypura synth --list" instead of a file; path must be NULL */
    const char *preset_type; /* type of the preset's weights, such as "Q4_K_M"; NULL: its default */
} hypura_inspection;

/* The file's metadata, its sizes by role, and the plan that hypura_open would make with these options. options and what
 * may be NULL. The caller frees *json with hypura_free. */
HYPURA_API hypura_status hypura_inspect(const char *path, const hypura_options *options, const hypura_inspection *what,
                                        char **json, hypura_error *error);

/* ---- several hosts, which need not be running -------------------------------------------------------------------- */

/* The plan for the hosts that the JSON file hosts_path describes; "hypura inspect --help" has its format. That file
 * replaces the options about the machine: memory_bytes must be 0, and the others are ignored. Only the preset is read
 * from what. The caller frees *json with hypura_free. */
HYPURA_API hypura_status hypura_inspect_hosts(const char *path, const char *hosts_path, const hypura_options *options,
                                              const hypura_inspection *what, char **json, hypura_error *error);

/* Writes the part of the model that one of these hosts serves to out_path. The file has the model's layout, with holes
 * for the rest. on_progress (may be NULL) is called on this thread with the bytes done so far and in all, first while
 * they are copied, then while they are checked. If it returns false, the call ends with HYPURA_ERROR_CANCELLED. */
HYPURA_API hypura_status hypura_write_part(
    const char *path, const char *hosts_path, const hypura_options *options, const char *host, const char *out_path,
    bool (*on_progress)(void *context, bool checking, uint64_t done, uint64_t all), void *context, hypura_error *error);

HYPURA_END
#endif
