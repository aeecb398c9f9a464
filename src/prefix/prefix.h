/* prefix: keeps computed data of texts, so that the same text is not computed twice.
 *
 * A sequence's data at a position consists of *rows*, one per position (keys, values and the like), and, if layers have
 * a state or a window, of a *checkpoint*, which is valid at one position only. The store keeps both in a tree. A node
 * is a block of positions with its tokens, and a path from the root is the beginning of a text, so texts with the same
 * beginning share it. To find a text, the store compares all of its tokens.
 *
 * Memory. The store takes at most its limit, and only when it has something to keep. It drops the least recently used
 * data first, and the end of a text before its beginning.
 *
 * Drive. With a folder, data that leaves memory goes there, and the rest follows when the store is closed. A file holds
 * the unwritten rest of one text, from where it differs from others to its end. So writes are large, few and late.
 * Files never change. A file appears under its name as a whole or not at all. Its header and each part have checksums,
 * and it has the tokens of its text from the beginning. So a killed process leaves nothing that misleads, several
 * processes can share a folder (one of them writes at a time), and files of other models, formats and versions are
 * ignored. If the files exceed the folder's limit, the store removes the least recently used ones, whichever process
 * wrote them. A full or failing drive costs only a warning.
 *
 * Threads: one at a time. prefix_shrink and prefix_statistics may be called from any thread, but not from the store's
 * callbacks. */
#ifndef HYPURA_PREFIX_H
#define HYPURA_PREFIX_H

#include "core/core.h"

struct prefix_store;

struct prefix_options {
    uint64_t digest;       /* of everything that data depends on: only data of the same digest is found */
    uint32_t block;        /* positions per block */
    bool needs_checkpoint; /* a sequence can only continue at positions that have one */
    uint64_t bytes;        /* of memory, at most */
    const char *folder;    /* NULL: memory only */
    uint64_t folder_bytes; /* at most; 0: PREFIX_FOLDER_BYTES */
    /* Called before the store takes more memory, with what it would then have in all. false: it cannot have that. NULL:
     * no limit but bytes. */
    bool (*lend)(void *context, uint64_t bytes);
    void *lend_context;
};

#define PREFIX_FOLDER_BYTES ((uint64_t)16 << 30)

/* Fails if the folder cannot be used. */
hypura_status prefix_open(struct prefix_store **out, const struct prefix_options *options, hypura_error *error);

/* Writes unwritten data to the folder, or drops it if "leave" is set. */
void prefix_close(struct prefix_store *store, bool leave);

/* Whether kept data remains after the store is closed. */
bool prefix_outlasts(const struct prefix_store *store);

/* The source of rows and checkpoints: a sequence that holds the tokens in question. */
struct prefix_source {
    uint64_t (*rows_bytes)(void *context, uint32_t first, uint32_t end);
    hypura_status (*read_rows)(void *context, uint32_t first, uint32_t end, void *out, hypura_error *error);
    uint64_t checkpoint_bytes;
    hypura_status (*read_checkpoint)(void *context, void *out, hypura_error *error);
    void *context;
};

/* Keeps the rows of positions first to count of a text. tokens: from position 0 on. Blocks already kept are not read,
 * and blocks that do not fit are left out. */
void prefix_save(struct prefix_store *store, const int32_t *tokens, uint32_t first, uint32_t count,
                 const struct prefix_source *source);

/* Keeps the checkpoint after this many tokens. false: it has no room, or could not be read. */
bool prefix_checkpoint(struct prefix_store *store, const int32_t *tokens, uint32_t count,
                       const struct prefix_source *source);

/* Drops the checkpoint after this many tokens, because another one replaces it. */
void prefix_forget_checkpoint(struct prefix_store *store, const int32_t *tokens, uint32_t count);

struct prefix_match {
    uint32_t position; /* a sequence can be restored up to here; 0: not at all */
    uint32_t first;    /* rows from here on come from the store: a multiple of block, or position */
};

/* How far a sequence that has the rows of the first "have" tokens can be restored: with the store or, if no checkpoint
 * is needed, without it. */
struct prefix_match prefix_find(struct prefix_store *store, const int32_t *tokens, uint32_t count, uint32_t have);

/* Starts to read what a match needs from the drive, while other work goes on; begin false: only asks. Returns whether
 * all of it has been read, so that prefix_restore need not wait. Data that cannot be read counts as read. */
bool prefix_fetch(struct prefix_store *store, const int32_t *tokens, const struct prefix_match *match, bool begin);

/* The target of restored data. Both functions run on the caller's thread and check bytes themselves. checkpoint is NULL
 * if none is needed. The end of the last block may be beyond the match's position. */
struct prefix_target {
    hypura_status (*write_rows)(void *context, uint32_t first, uint32_t end, const void *rows, uint64_t bytes,
                                hypura_error *error);
    hypura_status (*write_checkpoint)(void *context, uint32_t position, const void *checkpoint, uint64_t bytes,
                                      hypura_error *error);
    void *context;
};

/* Restores a sequence to a match that prefix_find has just returned for these tokens. After an error, the caller
 * empties the sequence. The store forgets data that it could not read, so the next prefix_find finds what is left. */
hypura_status prefix_restore(struct prefix_store *store, const int32_t *tokens, const struct prefix_match *match,
                             const struct prefix_target *target, hypura_error *error);

/* Shrinks the store to this many bytes, because the memory is needed elsewhere. It grows again if "lend" allows it. */
void prefix_shrink(struct prefix_store *store, uint64_t bytes);

struct prefix_statistics {
    uint64_t bytes, limit;              /* of memory */
    uint64_t folder_bytes;              /* in the folder, at its last scan */
    uint64_t restored_tokens, restores; /* from the store's rows or checkpoints */
    uint64_t read_bytes, written_bytes; /* from and to the folder */
    uint64_t evicted_bytes;             /* of memory */
};
void prefix_statistics(const struct prefix_store *store, struct prefix_statistics *out);

#endif
