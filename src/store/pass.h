/* store/pass: where passes begin and end. Owners: pass.c; peers.c, the passes over all stores of the process. */
#ifndef HYPURA_STORE_PASS_H
#define HYPURA_STORE_PASS_H

#include "core/core.h"

struct store;

#define FIRST_PASS 16u /* not 0, so that units that were never needed count as needed long ago */

/* Fails if a file was changed since it was opened. Checks only if anything was read since the last call. */
hypura_status store_check_files(struct store *store, hypura_error *error);

/* Call these with no store locked. */
void peers_join(struct store *store);
void peers_begin(void); /* a pass */
void peers_end(void);
void peers_leave(struct store *store);

#endif
