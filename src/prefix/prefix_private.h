/* Shared by the files of the store only.
 *
 *   checksum.c  checksums of headers and parts
 *   scan.c      lists the folder's files, and makes room for more
 *   drive.c     writes a file, reads a part of one
 *   tree.c      nodes by their tokens
 *   prefix.c    keeps, finds and evicts data */
#ifndef HYPURA_PREFIX_PRIVATE_H
#define HYPURA_PREFIX_PRIVATE_H

#include "prefix/prefix.h"

#include <limits.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <time.h>

/* For allocations that may fail without harm. Without an error, their failure would count as a failure of the request
 * (memory_failures). */
#define UNTOLD (&(hypura_error){0})

uint64_t prefix_checksum(const void *bytes, size_t size);

/* ---- the drive -----------------------------------------------------------------------------------------------------
 */

enum part_kind { PART_ROWS, PART_CHECKPOINT };

/* A part of a file: rows of a text's positions first to end, or the checkpoint at end. */
struct part {
    uint32_t kind, first, end, zero;
    uint64_t offset, bytes, checksum; /* in the file */
};

#define FILE_NAME 64u

struct drive_file {
    struct drive_file *next;
    char name[FILE_NAME];
    uint64_t bytes;
    bool gone;  /* items that refer to it are no longer on the drive */
    bool found; /* by the current scan */
};

struct drive {
    char folder[PATH_MAX / 2];
    uint64_t digest, limit;
    uint32_t block;
    struct drive_file *files; /* with this digest */
    struct timespec changed;  /* the folder's time of change at the last scan */
    uint64_t bytes;           /* of all files in the folder, at the last scan */
    uint64_t rest_until;      /* after a failure, nothing is written until then */
};

/* The contents of a file, without the parts' data. */
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

/* Scans the folder. Passes each new file to "add", the most recently used first, until "add" returns that there is no
 * room for more. */
void drive_scan(struct drive *drive,
                bool (*add)(void *context, struct drive_file *file, const struct contents *contents), void *context);

/* Locks the folder, since one process writes at a time. -1: another process has the lock. */
int drive_lock(const struct drive *drive);
void drive_unlock(int lock);

/* Under the lock: removes what a killed process left, and then the least recently used files until this many more bytes
 * fit. false: they do not. */
bool drive_make_room(struct drive *drive, uint64_t bytes);

/* Writes a file; sets the offsets and checksums of its parts. data: [part_count]. */
hypura_status drive_write(struct drive *drive, struct drive_file **out, struct contents *contents,
                          const void *const *data, hypura_error *error);

/* Reads a whole part. After an error, the file counts as gone. */
hypura_status drive_read(struct drive *drive, struct drive_file *file, const struct part *part, void *out,
                         hypura_error *error);

/* begin: has the system read a part in the background. Returns whether the part has been read; a part that cannot be
 * read counts as read. Pass the parts of one file one after the other, then call drive_fetched. */
struct fetch {
    const struct drive_file *of; /* NULL: none is open */
    int file;
};
bool drive_fetch(const struct drive *drive, struct fetch *fetch, const struct drive_file *file, const struct part *part,
                 bool begin);
void drive_fetched(struct fetch *fetch);

/* Marks a file as used, so that others are removed before it. */
void drive_touch(const struct drive *drive, const struct drive_file *file);

/* Reads and checks a file's header, tokens and table of parts. */
hypura_status drive_read_contents(const struct drive *drive, const char *name, struct contents *out, uint64_t *bytes,
                                  hypura_error *error);

/* The most bytes of a file with this many tokens and parts; bytes: those of all parts. */
uint64_t drive_file_bytes(uint32_t tokens, uint32_t parts, uint64_t bytes);

/* ---- the tree ------------------------------------------------------------------------------------------------------
 */

struct node;

/* The rows of a node, or a checkpoint: in memory, on the drive, in both or in neither. */
struct item {
    struct item *newer, *older; /* the list of items in memory */
    struct node *node;
    void *data; /* NULL: not in memory */
    struct drive_file *file;
    struct part part; /* its bytes are valid without a file, too */
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
    uint64_t round; /* nodes of this round are not freed */
};

static inline bool item_there(const struct item *item)
{
    return item->data || (item->file && !item->file->gone);
}

/* The number of tokens, at most "most", that both begin with. */
uint32_t common_tokens(const int32_t *a, const int32_t *b, uint32_t most);

/* The child that begins with the most of these tokens; *same: how many. If its rows are nowhere, only the first "have"
 * tokens count, whose rows the caller has. NULL: none. */
struct node *tree_child(const struct node *node, const int32_t *tokens, uint32_t count, uint32_t have, uint32_t *same);

/* The child that begins with these tokens: found, extended (after "drop" got its rows) or made. NULL: no memory. */
struct node *tree_grow(struct tree *tree, struct node *node, const int32_t *tokens, uint32_t count,
                       void (*drop)(void *context, struct item *item), void *context);

struct checkpoint *tree_checkpoint(const struct node *node, uint32_t position);

/* Frees the node and its ancestors, as far as they are empty and not of this round. */
void tree_prune(struct tree *tree, struct node *node);

/* Frees all empty nodes that are not of this round, after files have gone. */
void tree_sweep(struct tree *tree);

/* The tokens of the text that ends with the node. */
void tree_tokens(const struct node *node, int32_t *out);

/* Frees all nodes and checkpoints. Their data must be gone. */
void tree_free(struct tree *tree);

/* The next node of a walk over all nodes, each before its children; NULL after the last. Begin with the root. */
struct node *tree_next(struct node *node);

#endif
