/* What the files of the store share.
 *
 *   checksum.c  of headers and parts
 *   scan.c      which files are in the folder, and room for more
 *   drive.c     writing a file, reading a part of one
 *   tree.c      nodes by their tokens
 *   prefix.c    what is kept, for how long, and finding it
 */
#ifndef HYPURA_PREFIX_PRIVATE_H
#define HYPURA_PREFIX_PRIVATE_H

#include "prefix/prefix.h"

#include <limits.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <time.h>

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        hypura_status try_status = (call);                                                                             \
        if (try_status)                                                                                                \
            return try_status;                                                                                         \
    } while (0)

/* For memory without which nothing is lost: to go without an error would count as a failure of what is answered. */
#define UNTOLD (&(hypura_error){0})

uint64_t prefix_checksum(const void *bytes, size_t size);

/* ---- the drive -----------------------------------------------------------------------------------------------------
 */

enum part_kind { PART_ROWS, PART_CHECKPOINT };

/* Of a text: rows of its positions first to end, or the checkpoint at end. */
struct part {
    uint32_t kind, first, end, zero;
    uint64_t offset, bytes, checksum; /* in the file */
};

#define FILE_NAME 64u

struct drive_file {
    struct drive_file *next;
    char name[FILE_NAME];
    uint64_t bytes;
    bool gone;  /* what refers to it has nothing there */
    bool found; /* by the scan at hand */
};

struct drive {
    char folder[PATH_MAX / 2];
    uint64_t digest, limit;
    uint32_t block;
    struct drive_file *files; /* under the digest */
    struct timespec changed;  /* the folder, at the last scan */
    uint64_t bytes;           /* of all files there, by that */
    uint64_t rest_until;      /* after a failure nothing is written for a while */
};

/* What a file's header says. */
struct contents {
    int32_t *tokens;
    uint32_t token_count, part_count;
    struct part *parts;
};
void contents_free(struct contents *contents);

hypura_status drive_open(struct drive *drive, const struct prefix_options *options, hypura_error *error);
void drive_close(struct drive *drive);

/* Whether files may have come or gone since the last scan. */
bool drive_changed(const struct drive *drive);

/* Looks through the folder; each file that is new, from the last used on, is given to "add", and whether there is room
 * for more comes back. */
void drive_scan(struct drive *drive,
                bool (*add)(void *context, struct drive_file *file, const struct contents *contents), void *context);

/* One process writes at a time. -1: another one does. */
int drive_lock(const struct drive *drive);
void drive_unlock(int lock);

/* Under the lock: removes what a killed process left, and files that were used least lately, until so many bytes more
 * fit. */
bool drive_make_room(struct drive *drive, uint64_t bytes);

/* Writes a file: parts have everything but offset and checksum; data [part_count]. */
hypura_status drive_write(struct drive *drive, struct drive_file **out, struct contents *contents,
                          const void *const *data, hypura_error *error);

/* Reads a part whole. What is wrong with the file makes it gone. */
hypura_status drive_read(struct drive *drive, struct drive_file *file, const struct part *part, void *out,
                         hypura_error *error);

/* Lets the system read parts on its own, and asks whether it has; parts of one file one after the other. */
struct fetch {
    const struct drive_file *of; /* NULL: none is open */
    int file;
};
bool drive_fetch(const struct drive *drive, struct fetch *fetch, const struct drive_file *file, const struct part *part,
                 bool begin);
void drive_fetched(struct fetch *fetch);

/* It was used: it is removed later than others. */
void drive_touch(const struct drive *drive, const struct drive_file *file);

/* Reads a header, with all in it checked. */
hypura_status drive_read_contents(const struct drive *drive, const char *name, struct contents *out, uint64_t *bytes,
                                  hypura_error *error);

/* Bytes of a file with this many parts of this many bytes together, at most. */
uint64_t drive_file_bytes(uint32_t tokens, uint32_t parts, uint64_t bytes);

/* ---- the tree ------------------------------------------------------------------------------------------------------
 */

struct node;

/* Rows of a node, or a checkpoint. In memory, on the drive, both or nowhere. */
struct item {
    struct item *newer, *older; /* of those in memory */
    struct node *node;
    void *data; /* NULL: not in memory */
    struct drive_file *file;
    struct part part; /* the bytes of it are right without a file too */
};

struct checkpoint {
    struct checkpoint *next;
    struct item item; /* its part's end is the position */
};

struct node {
    struct node *parent, *children, *next;
    uint32_t first, count;
    int32_t *tokens; /* [count] */
    struct item rows;
    struct checkpoint *checkpoints;
    uint64_t round; /* of the last walk that used it */
};

struct tree {
    struct node root;
    uint32_t block;
    uint64_t bytes; /* of nodes and their tokens */
    uint64_t round; /* nodes of this one stay */
};

static inline bool item_there(const struct item *item)
{
    return item->data || (item->file && !item->file->gone);
}

/* Beginning tokens that both have. */
uint32_t common_tokens(const int32_t *a, const int32_t *b, uint32_t most);

/* The child whose tokens share most with these; where rows are wanted, the positions that it has them of count. *same:
 * how many it shares. NULL: none. */
struct node *tree_child(const struct node *node, const int32_t *tokens, uint32_t count, uint32_t have, uint32_t *same);

/* The child with these tokens, or more: found, extended (its rows are given to "drop" then) or made. NULL: no memory.
 */
struct node *tree_grow(struct tree *tree, struct node *node, const int32_t *tokens, uint32_t count,
                       void (*drop)(void *context, struct item *item), void *context);

struct checkpoint *tree_checkpoint(const struct node *node, uint32_t position);

/* Frees the node, and those above it, that hold nothing any more and are not of this round. */
void tree_prune(struct tree *tree, struct node *node);

/* The same of all nodes, after files went. */
void tree_sweep(struct tree *tree);

/* The tokens of the text that ends with the node. */
void tree_tokens(const struct node *node, int32_t *out);

/* Everything; data must be gone. */
void tree_free(struct tree *tree);

/* The next node of a walk over all, each before those below it; NULL after the last. Begin with the root. */
struct node *tree_next(struct node *node);

#endif
