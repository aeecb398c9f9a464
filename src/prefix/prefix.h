/* prefix: keeps what was computed of texts, so that the same text is not computed twice.
 *
 * What a sequence knows at a position is data: *rows*, one per position (keys, values and the like), and, if layers
 * have a state or a window, a *checkpoint*, which is valid at one position only. The store keeps both in a
 * tree. A node is a block of positions with its tokens, and a path from the root is the beginning of a text, so texts
 * with the same beginning share it. Texts are found by their tokens, all of which are compared.
 *
 * Memory. The store takes at most what it is allowed, and only when there is something to keep. What was used longest
 * ago goes first, and the end of a text goes before its beginning.
 *
 * Drive. With a folder, what leaves memory goes there, and so does the rest when the store is closed. A file holds the
 * unwritten rest of one text, from where it parts from others to its end. So writes are large, few and late. Files
 * never change. A file appears under its name as a whole or not at all; its header and each part carry checksums; and
 * it has the tokens of its text from the beginning. So a killed process leaves nothing that misleads, several processes
 * can share a folder (one of them writes at a time), and files of other models, formats and versions are ignored.
 * Together they take at most what the folder may have: those used longest ago are removed, whoever wrote them. A drive
 * that is full or fails costs a warning.
 *
 * Threads: one at a time; prefix_shrink and prefix_statistics from any, but not from inside what the store calls.
 */
#ifndef HYPURA_PREFIX_H
#define HYPURA_PREFIX_H

#include "core/core.h"

struct prefix_store;

struct prefix_options {
    uint64_t digest;       /* of everything that makes data mean the same: only what was kept under it is found */
    uint32_t block;        /* positions of a block */
    bool needs_checkpoint; /* a sequence goes to positions that have one, and to no other */
    uint64_t bytes;        /* of memory, at most */
    const char *folder;    /* NULL: memory only */
    uint64_t folder_bytes; /* at most; 0: PREFIX_FOLDER_BYTES */
    /* Before the store takes more memory, with how much it has then; false: there is none now. NULL: there is. */
    bool (*lend)(void *context, uint64_t bytes);
    void *lend_context;
};

#define PREFIX_FOLDER_BYTES ((uint64_t)16 << 30)

/* A folder that cannot be used is an error. */
hypura_status prefix_open(struct prefix_store **out, const struct prefix_options *options, hypura_error *error);

/* Writes to the folder what is not there yet; "leave": drops what is in memory instead. */
void prefix_close(struct prefix_store *store, bool leave);

/* Whether what is kept is there after the store is closed. */
bool prefix_outlasts(const struct prefix_store *store);

/* Where rows and checkpoints come from. The sequence holds the tokens in question. */
struct prefix_source {
    uint64_t (*rows_bytes)(void *context, uint32_t first, uint32_t end);
    hypura_status (*read_rows)(void *context, uint32_t first, uint32_t end, void *out, hypura_error *error);
    uint64_t checkpoint_bytes;
    hypura_status (*read_checkpoint)(void *context, void *out, hypura_error *error);
    void *context;
};

/* Keeps the rows of positions first to count of a text, whose tokens are given from position 0 on; blocks that are kept
 * already are not read. What does not fit is left out. */
void prefix_save(struct prefix_store *store, const int32_t *tokens, uint32_t first, uint32_t count,
                 const struct prefix_source *source);

/* Keeps the checkpoint that holds after this many tokens. False: there is no room for it. */
bool prefix_checkpoint(struct prefix_store *store, const int32_t *tokens, uint32_t count,
                       const struct prefix_source *source);

/* Drops the checkpoint there, which another one has made needless. */
void prefix_forget_checkpoint(struct prefix_store *store, const int32_t *tokens, uint32_t count);

struct prefix_match {
    uint32_t position; /* to which a sequence can be brought; 0: none */
    uint32_t first;    /* rows from here on are the store's: a multiple of a block, or the position */
};

/* How far a sequence that has the rows of the first "have" of these tokens can be brought, without the store (where no
 * checkpoint is needed) or with it. */
struct prefix_match prefix_find(struct prefix_store *store, const int32_t *tokens, uint32_t count, uint32_t have);

/* What a match needs from the drive begins to be read, next to whatever else is done; "begin" false: only asks. Returns
 * whether it all is there by now, so that prefix_restore need not wait. What cannot be read counts as there. */
bool prefix_fetch(struct prefix_store *store, const int32_t *tokens, const struct prefix_match *match, bool begin);

/* Where they go. Checkpoint: NULL where none is needed; bytes of either are checked by who takes them. Both are called
 * on the thread of the call; the last block's end may be beyond the position of the match. */
struct prefix_target {
    hypura_status (*write_rows)(void *context, uint32_t first, uint32_t end, const void *rows, uint64_t bytes,
                                hypura_error *error);
    hypura_status (*write_checkpoint)(void *context, uint32_t position, const void *checkpoint, uint64_t bytes,
                                      hypura_error *error);
    void *context;
};

/* Brings a sequence to a match of these tokens, which was just found. After an error it is to be emptied; what could
 * not be read is forgotten, so that the next look finds what is left. */
hypura_status prefix_restore(struct prefix_store *store, const int32_t *tokens, const struct prefix_match *match,
                             const struct prefix_target *target, hypura_error *error);

/* Somebody else needs the memory: the store keeps this much, and takes more again when it is lent. */
void prefix_shrink(struct prefix_store *store, uint64_t bytes);

struct prefix_statistics {
    uint64_t bytes, limit;              /* of memory */
    uint64_t folder_bytes;              /* of the folder, by its last scan */
    uint64_t restored_tokens, restores; /* from rows or checkpoints of the store */
    uint64_t read_bytes, written_bytes; /* of the folder */
    uint64_t evicted_bytes;             /* of memory */
};
void prefix_statistics(const struct prefix_store *store, struct prefix_statistics *out);

#endif
