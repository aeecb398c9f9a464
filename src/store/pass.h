/* store/pass: where passes begin and end. Owners: pass.c; peers.c, the passes over all stores of the process. */
#ifndef HYPURA_STORE_PASS_H
#define HYPURA_STORE_PASS_H

#include "core/core.h"

struct store;

#define FIRST_PASS 16u /* so that what was never needed was needed long ago */

/* An error when a file was written to since it was opened, and something was read since this was asked. */
hypura_status store_check_files(struct store *store, hypura_error *error);

/* No store is locked. */
void peers_join(struct store *store);
void peers_begin(void); /* a pass */
void peers_end(void);
void peers_leave(struct store *store);

#endif
