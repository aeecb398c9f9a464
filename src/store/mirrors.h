/* store/mirrors: copies of a model's files on other drives, found and compared. Owner: mirrors.c. */
#ifndef HYPURA_STORE_MIRRORS_H
#define HYPURA_STORE_MIRRORS_H

#include "core/core.h"
#include "hw/hw.h"

/* Finds the drives of files and of their copies. A mirror is a folder with files of the same names; or a file, which
 * stands for itself or for all parts of its split model. A copy is not used, with a warning, if it is missing, is the
 * file itself, or differs in size or content (its beginning, its end and samples in between are compared). The caller
 * frees *out with drives_free. Files after the first "parts" ones hold experts; their copies are next to the model's.
 */
hypura_status mirrors_find(struct drives **out, const struct hardware *hardware, const char *const *paths,
                           uint32_t file_count, uint32_t parts, const char *const *mirrors, size_t mirror_count,
                           hypura_error *error);

#endif
