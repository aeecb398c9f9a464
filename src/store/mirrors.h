/* store/mirrors: copies of a model's files on other drives, found and compared. Owner: mirrors.c. */
#ifndef HYPURA_STORE_MIRRORS_H
#define HYPURA_STORE_MIRRORS_H

#include "core/core.h"
#include "hw/hw.h"

/* The drives of files and of the copies that stand for them: of each mirror that is a folder the files of the same
 * names, of one that is a file this, or all parts of the split model that it is a part of. A copy that is missing, the
 * file itself, of another size or of other bytes (its beginning, its end and samples between are compared) is left out
 * with a warning. Files behind the model's parts hold experts: they have copies next to those of the model, or none. */
hypura_status mirrors_find(struct drives **out, const struct hardware *hardware, const char *const *paths,
                           uint32_t file_count, uint32_t parts, const char *const *mirrors, size_t mirror_count,
                           hypura_error *error);

#endif
