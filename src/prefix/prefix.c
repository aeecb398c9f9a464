#include "prefix/prefix_private.h"

#include <pthread.h>
#include <string.h>

/* The store borrows memory in steps of this part of its limit. */
#define GRANT_PART 32

/* How long nothing is written after a failure. */
#define REST_NANOSECONDS UINT64_C(60000000000)

/* Nodes of known files take at most this part of the memory. */
#define INDEX_PART 4

struct prefix_store {
    pthread_mutex_t mutex; /* protects everything but options and counters */
    struct prefix_options options;
    struct tree tree;
    bool has_drive;
    struct drive drive;
    struct item *newest, *oldest; /* items in memory */
    const struct item *needed;    /* by the current walk */
    uint64_t taken, granted;
    _Atomic uint64_t bytes, folder_bytes, restored_tokens, restores, read_bytes, written_bytes, evicted_bytes;
};

/* ---- items in memory, by use ---------------------------------------------------------------------------------------
 */

static void unlink_item(struct prefix_store *store, struct item *item)
{
    *(item->newer ? &item->newer->older : &store->newest) = item->older;
    *(item->older ? &item->older->newer : &store->oldest) = item->newer;
    item->newer = item->older = NULL;
}

static void link_newest(struct prefix_store *store, struct item *item)
{
    item->older = store->newest;
    *(store->newest ? &store->newest->newer : &store->oldest) = item;
    store->newest = item;
}

static void touch(struct prefix_store *store, struct item *item)
{
    if (!item->data || store->newest == item)
        return;
    unlink_item(store, item);
    link_newest(store, item);
}

/* Marks a text as used, its beginning last: everything after the beginning needs it. */
static void touch_path(struct prefix_store *store, struct node *node)
{
    const struct drive_file *last = NULL;
    for (; node; node = node->parent) {
        touch(store, &node->rows);
        if (node->rows.file && node->rows.file != last)
            drive_touch(&store->drive, last = node->rows.file);
    }
}

static void drop(void *context, struct item *item)
{
    struct prefix_store *store = context;
    item->file = NULL;
    if (!item->data)
        return;
    unlink_item(store, item);
    memory_free(item->data);
    item->data = NULL;
    store->taken -= item->part.bytes;
}

/* ---- the drive -----------------------------------------------------------------------------------------------------
 */

static bool is_unwritten(const struct item *item)
{
    return item->data && !(item->file && !item->file->gone);
}

static bool has_unwritten(const struct node *node)
{
    bool found = is_unwritten(&node->rows);
    for (const struct checkpoint *c = node->checkpoints; !found && c; c = c->next)
        found = is_unwritten(&c->item);
    return found;
}

/* The contents of a file to be written. */
struct run {
    struct item **items;
    const void **data;
    struct contents contents;
    uint32_t room;
    uint64_t bytes;
};

static void run_free(struct run *run)
{
    memory_free(run->items);
    memory_free(run->data);
    contents_free(&run->contents);
}

static bool run_add(struct run *run, struct item *item, uint64_t most)
{
    uint64_t bytes = run->bytes + item->part.bytes;
    if (run->contents.part_count == run->room || drive_file_bytes(item->part.end, run->room, bytes) > most)
        return false;
    run->bytes = bytes;
    run->items[run->contents.part_count] = item;
    run->data[run->contents.part_count] = item->data;
    run->contents.parts[run->contents.part_count++] = item->part;
    run->contents.token_count = MAX(run->contents.token_count, item->part.end);
    return true;
}

static uint32_t count_unwritten(const struct node *node)
{
    uint32_t count = is_unwritten(&node->rows);
    for (const struct checkpoint *c = node->checkpoints; c; c = c->next)
        count += is_unwritten(&c->item);
    return count;
}

/* Collects the unwritten data of the path to "end", from the top of its unwritten part on, as far as it fits. */
static hypura_status make_run(struct run *run, struct node *end, uint64_t most, hypura_error *error)
{
    uint32_t depth = 0, parts = 0;
    for (struct node *node = end; node->parent && has_unwritten(node); node = node->parent) {
        parts += count_unwritten(node);
        depth++;
    }
    struct node **path;
    TRY(ALLOCATE(&path, depth, "prefix file", error));
    hypura_status status = ALLOCATE(&run->items, parts, "prefix file", error);
    if (!status)
        status = ALLOCATE(&run->data, parts, "prefix file", error);
    if (!status)
        status = ALLOCATE(&run->contents.parts, parts, "prefix file", error);
    if (!status)
        status = ALLOCATE(&run->contents.tokens, end->first + end->count, "prefix file", error);
    run->room = parts;
    struct node *node = end;
    for (uint32_t i = depth; !status && i-- > 0; node = node->parent)
        path[i] = node;
    bool fits = true;
    for (uint32_t i = 0; !status && fits && i < depth; i++) {
        if (is_unwritten(&path[i]->rows))
            fits = run_add(run, &path[i]->rows, most);
        for (struct checkpoint *c = path[i]->checkpoints; fits && c; c = c->next)
            if (is_unwritten(&c->item))
                fits = run_add(run, &c->item, most);
    }
    if (!status)
        tree_tokens(end, run->contents.tokens);
    memory_free(path);
    return status;
}

static hypura_status write_locked(struct prefix_store *store, struct run *run, hypura_error *error)
{
    struct drive_file *file;
    uint64_t bytes = drive_file_bytes(run->contents.token_count, run->contents.part_count, run->bytes);
    if (!drive_make_room(&store->drive, bytes))
        return error_set(error, HYPURA_ERROR_IO, "%s has no room for a file of %.1f MiB", store->drive.folder,
                         (double)bytes / 1048576);
    TRY(drive_write(&store->drive, &file, &run->contents, run->data, error));
    for (uint32_t i = 0; i < run->contents.part_count; i++) {
        run->items[i]->file = file;
        run->items[i]->part = run->contents.parts[i];
    }
    atomic_fetch_add(&store->written_bytes, file->bytes);
    return HYPURA_OK;
}

/* Writes the unwritten part of the path to the node as one file. */
static void write_run(struct prefix_store *store, struct node *end)
{
    hypura_error error = {0};
    struct run run = {0};
    if (clock_nanoseconds() < store->drive.rest_until)
        return;
    hypura_status status = make_run(&run, end, store->drive.limit, &error);
    int lock = !status && run.contents.part_count ? drive_lock(&store->drive) : -1;
    if (lock >= 0) {
        status = write_locked(store, &run, &error);
        drive_unlock(lock);
    }
    if (status) {
        store->drive.rest_until = clock_nanoseconds() + REST_NANOSECONDS;
        log_write(LOG_WARNING, "prefix cache: %s; continuing without writing it", error.message);
    }
    atomic_store(&store->folder_bytes, store->drive.bytes);
    run_free(&run);
}

/* The end of an unwritten text, at or below an unwritten node. */
static struct node *unwritten_end(struct node *node)
{
    for (struct node *child = node->children; child;) {
        if (has_unwritten(child)) {
            node = child;
            child = node->children;
        } else {
            child = child->next;
        }
    }
    return node;
}

/* Writes an item together with its text; if the folder has no room for that, with the text's beginning only. */
static void write_item(struct prefix_store *store, const struct item *item)
{
    write_run(store, unwritten_end(item->node));
    if (is_unwritten(item))
        write_run(store, item->node);
}

static void refer(struct item *item, struct drive_file *file, const struct part *part)
{
    if (item_there(item) && (!is_unwritten(item) || item->part.bytes != part->bytes))
        return; /* it is on the drive already */
    item->file = file;
    item->part = *part;
}

static struct checkpoint *make_checkpoint(struct node *node, uint32_t position)
{
    struct checkpoint *checkpoint = tree_checkpoint(node, position);
    if (checkpoint || ALLOCATE(&checkpoint, 1, "checkpoint", UNTOLD))
        return checkpoint;
    checkpoint->item.node = node;
    checkpoint->item.part = (struct part){.kind = PART_CHECKPOINT, .first = node->first, .end = position};
    checkpoint->next = node->checkpoints;
    node->checkpoints = checkpoint;
    return checkpoint;
}

/* Makes nodes for a file's parts. These follow one path, so the search for each begins below the one before. Returns
 * whether the index has room for more files. */
static bool add_file(void *context, struct drive_file *file, const struct contents *contents)
{
    struct prefix_store *store = context;
    const int32_t *tokens = contents->tokens;
    struct node *above = &store->tree.root;
    for (uint32_t i = 0; i < contents->part_count; i++) {
        const struct part *part = &contents->parts[i];
        if (part->first < above->first + above->count)
            above = &store->tree.root;
        uint32_t at = above->first + above->count;
        for (; above && at < part->first; at += store->options.block)
            above = tree_grow(&store->tree, above, tokens + at, store->options.block, drop, store);
        struct node *node =
            above ? tree_grow(&store->tree, above, tokens + at, part->end - part->first, drop, store) : NULL;
        struct checkpoint *checkpoint = NULL;
        if (node && part->kind == PART_CHECKPOINT)
            checkpoint = make_checkpoint(node, part->end);
        if (!node || (part->kind == PART_CHECKPOINT && !checkpoint))
            return false;
        if (checkpoint)
            refer(&checkpoint->item, file, part);
        else if (node->count == part->end - part->first)
            refer(&node->rows, file, part);
    }
    return store->tree.bytes < store->options.bytes / INDEX_PART;
}

static void look_again(struct prefix_store *store)
{
    if (!store->has_drive || !drive_changed(&store->drive))
        return;
    drive_scan(&store->drive, add_file, store);
    tree_sweep(&store->tree);
    atomic_store(&store->folder_bytes, store->drive.bytes);
}

/* ---- room in memory ------------------------------------------------------------------------------------------------
 */

static void count_memory(struct prefix_store *store)
{
    atomic_store(&store->bytes, store->taken + store->tree.bytes);
}

/* Drops the least recently used item, after writing it if there is a drive. Items that the current walk needs stay,
 * unless they are on the drive. false: no item can go. */
static bool evict(struct prefix_store *store)
{
    for (struct item *item = store->oldest; item; item = item->newer) {
        bool needed = item == store->needed || (item->part.kind == PART_ROWS && item->node->round == store->tree.round);
        if (needed && !store->has_drive)
            continue;
        if (is_unwritten(item) && store->has_drive)
            write_item(store, item);
        if (needed && is_unwritten(item))
            continue;
        struct drive_file *file = item->file;
        atomic_fetch_add(&store->evicted_bytes, item->part.bytes);
        drop(store, item);
        item->file = file;
        tree_prune(&store->tree, item->node);
        return true;
    }
    return false;
}

static bool grant(struct prefix_store *store, uint64_t bytes)
{
    const struct prefix_options *options = &store->options;
    if (bytes <= store->granted)
        return true;
    if (bytes > options->bytes)
        return false;
    if (options->lend && !options->lend(options->lend_context, bytes))
        return false;
    store->granted = bytes;
    return true;
}

static bool take_room(struct prefix_store *store, uint64_t bytes)
{
    uint64_t most = store->options.bytes;
    if (bytes > most)
        return false;
    for (;;) {
        uint64_t all = store->taken + store->tree.bytes + bytes;
        if (grant(store, MIN(most, all + most / GRANT_PART)) || grant(store, all))
            if (all <= store->granted)
                return true;
        if (!evict(store))
            return false;
    }
}

/* Takes memory for an item, which becomes the most recently used. NULL: no room. */
static void *take_item(struct prefix_store *store, struct item *item, uint64_t bytes)
{
    void *data;
    /* rows of a model without keys have no bytes */
    if (!take_room(store, bytes) || memory_allocate(&data, 1, MAX(bytes, 1u), "prefix", UNTOLD))
        return NULL;
    item->data = data;
    item->file = NULL;
    item->part.bytes = bytes;
    store->taken += bytes;
    link_newest(store, item);
    return data;
}

/* Begins a walk, under the mutex until finish. Nodes that it marks are not freed before. */
static void begin(struct prefix_store *store)
{
    pthread_mutex_lock(&store->mutex);
    store->tree.round++;
    store->needed = NULL;
    look_again(store);
}

static void finish(struct prefix_store *store, struct node *node)
{
    store->tree.round++;
    store->needed = NULL;
    if (node)
        tree_prune(&store->tree, node);
    count_memory(store);
    pthread_mutex_unlock(&store->mutex);
}

/* ---- keeping -------------------------------------------------------------------------------------------------------
 */

/* Finds or makes the child with the tokens up to "end", and marks it. NULL: no memory. */
static struct node *grow(struct prefix_store *store, struct node *node, const int32_t *tokens, uint32_t end)
{
    uint32_t at = node->first + node->count;
    node = tree_grow(&store->tree, node, tokens + at, end - at, drop, store);
    if (node) {
        node->round = store->tree.round;
        if (!node->rows.data && !node->rows.file)
            node->rows.part = (struct part){.kind = PART_ROWS, .first = node->first, .end = node->first + node->count};
    }
    return node;
}

static bool keep_rows(struct prefix_store *store, struct node *node, const struct prefix_source *source)
{
    uint32_t end = node->first + node->count;
    node->rows.part = (struct part){.kind = PART_ROWS, .first = node->first, .end = end};
    void *data = take_item(store, &node->rows, source->rows_bytes(source->context, node->first, end));
    if (!data)
        return false;
    if (!source->read_rows(source->context, node->first, end, data, NULL))
        return true;
    drop(store, &node->rows);
    return false;
}

void prefix_save(struct prefix_store *store, const int32_t *tokens, uint32_t first, uint32_t count,
                 const struct prefix_source *source)
{
    begin(store);
    struct node *node = &store->tree.root, *last = NULL;
    for (uint32_t at = 0; at < count;) {
        uint32_t end = MIN(at + store->options.block, count);
        node = grow(store, node, tokens, end);
        if (!node)
            break;
        last = node;
        bool wanted = end > first && !item_there(&node->rows) && node->count == end - at;
        if (wanted && !keep_rows(store, node, source))
            break;
        at = end;
    }
    if (last)
        touch_path(store, last);
    finish(store, last);
}

/* The node with a text's last token; make: makes the path to it. NULL: none. */
static struct node *find_end(struct prefix_store *store, const int32_t *tokens, uint32_t count, bool make)
{
    struct node *node = &store->tree.root;
    for (uint32_t at = 0; node && at < count; at += store->options.block) {
        uint32_t same, size = MIN(store->options.block, count - at);
        struct node *child = tree_child(node, tokens + at, size, size, &same);
        node = make ? grow(store, node, tokens, at + size) : same == size ? child : NULL;
    }
    return node;
}

bool prefix_checkpoint(struct prefix_store *store, const int32_t *tokens, uint32_t count,
                       const struct prefix_source *source)
{
    if (source->checkpoint_bytes > store->options.bytes / 2)
        return false;
    begin(store);
    struct node *node = find_end(store, tokens, count, true);
    struct checkpoint *checkpoint = node ? make_checkpoint(node, count) : NULL;
    bool kept = checkpoint && item_there(&checkpoint->item);
    if (kept) {
        touch(store, &checkpoint->item);
    } else if (checkpoint) {
        store->needed = &checkpoint->item;
        checkpoint->item.file = NULL;
        void *data = take_item(store, &checkpoint->item, source->checkpoint_bytes);
        kept = data && !source->read_checkpoint(source->context, data, NULL);
        if (data && !kept)
            drop(store, &checkpoint->item);
    }
    finish(store, node);
    return kept;
}

void prefix_forget_checkpoint(struct prefix_store *store, const int32_t *tokens, uint32_t count)
{
    begin(store);
    struct node *node = find_end(store, tokens, count, false);
    struct checkpoint *checkpoint = node ? tree_checkpoint(node, count) : NULL;
    if (checkpoint && !checkpoint->item.file) /* a written one can leave memory anyway */
        drop(store, &checkpoint->item);
    finish(store, node);
}

/* ---- finding -------------------------------------------------------------------------------------------------------
 */

/* The last checkpoint in the children of a node that is valid for these tokens, at most "most" tokens after the
 * node. */
static struct checkpoint *last_checkpoint(const struct node *above, const int32_t *tokens, uint32_t most)
{
    struct checkpoint *best = NULL;
    for (const struct node *child = above->children; child; child = child->next) {
        uint32_t same = child->first + common_tokens(child->tokens, tokens, MIN(child->count, most));
        for (struct checkpoint *c = child->checkpoints; c; c = c->next)
            if (c->item.part.end <= same && item_there(&c->item) && (!best || c->item.part.end > best->item.part.end))
                best = c;
    }
    return best;
}

struct prefix_match prefix_find(struct prefix_store *store, const int32_t *tokens, uint32_t count, uint32_t have)
{
    begin(store);
    struct node *node = &store->tree.root;
    uint32_t block = store->options.block, position = 0, at = 0;
    while (at < count) {
        uint32_t same, size = MIN(block, count - at);
        struct node *child = tree_child(node, tokens + at, size, have > at ? have - at : 0, &same);
        const struct checkpoint *checkpoint = same ? last_checkpoint(node, tokens + at, same) : NULL;
        if (!store->options.needs_checkpoint)
            position = at + same;
        else if (checkpoint)
            position = checkpoint->item.part.end;
        if (!child || same < block)
            break;
        node = child;
        at += block;
    }
    if (!store->options.needs_checkpoint)
        position = MAX(position, MIN(have, count));
    bool rows = position > have;
    finish(store, NULL);
    return (struct prefix_match){position, rows ? (uint32_t)align_down(have, block) : position};
}

/* The most that the system reads ahead. The page cache holds it, outside the budget. */
#define FETCHED_MOST ((uint64_t)256 << 20)

struct fetching {
    struct fetch fetch;
    uint64_t bytes;
    bool begin, near;
};

static void fetch_item(const struct prefix_store *store, const struct item *item, struct fetching *f)
{
    bool known = !f->begin && !f->near;
    if (known || item->data || !item->file || item->file->gone || f->bytes >= FETCHED_MOST)
        return;
    f->bytes += item->part.bytes;
    f->near = drive_fetch(&store->drive, &f->fetch, item->file, &item->part, f->begin) && f->near;
}

bool prefix_fetch(struct prefix_store *store, const int32_t *tokens, const struct prefix_match *match, bool begin_now)
{
    struct fetching f = {.fetch.file = -1, .begin = begin_now, .near = true};
    if (!store->has_drive)
        return true;
    begin(store);
    struct node *node = &store->tree.root, *above = node;
    uint32_t block = store->options.block, same = 0;
    for (uint32_t at = 0; node && at < match->position; at += block) {
        above = node;
        node = tree_child(above, tokens + at, MIN(block, match->position - at), at < match->first ? block : 0, &same);
        if (node && at >= match->first)
            fetch_item(store, &node->rows, &f);
    }
    uint32_t end = above->first + above->count;
    const struct checkpoint *checkpoint = store->options.needs_checkpoint && match->position > end
                                              ? last_checkpoint(above, tokens + end, match->position - end)
                                              : NULL;
    if (checkpoint)
        fetch_item(store, &checkpoint->item, &f);
    drive_fetched(&f.fetch);
    finish(store, NULL);
    return f.near;
}

/* Passes an item's data to the target. Data from the drive is in memory for this call only. */
static hypura_status use(struct prefix_store *store, struct item *item, const struct prefix_target *target,
                         hypura_error *error)
{
    hypura_error problem = {0};
    void *data = item->data, *read = NULL;
    hypura_status status = HYPURA_OK;
    store->needed = item;
    const struct part part = item->part;
    if (!data) {
        if (!take_room(store, part.bytes))
            return error_set(error, HYPURA_ERROR_MEMORY, "no memory to read a kept prefix of the text");
        TRY(memory_allocate(&read, 1, MAX(part.bytes, 1u), "prefix", error));
        store->taken += part.bytes;
        status = drive_read(&store->drive, item->file, &part, read, &problem);
        if (status && error)
            *error = problem;
        if (!status)
            atomic_fetch_add(&store->read_bytes, part.bytes);
        data = read;
    }
    touch(store, item);
    if (!status && part.kind == PART_ROWS)
        status = target->write_rows(target->context, part.first, part.end, data, part.bytes, error);
    else if (!status)
        status = target->write_checkpoint(target->context, part.end, data, part.bytes, error);
    if (read) {
        memory_free(read);
        store->taken -= part.bytes;
    }
    return status;
}

static hypura_status restore(struct prefix_store *store, const int32_t *tokens, const struct prefix_match *match,
                             const struct prefix_target *target, hypura_error *error)
{
    struct node *node = &store->tree.root, *above = node;
    uint32_t block = store->options.block;
    for (uint32_t at = 0; at < match->position; at += block) {
        uint32_t same, size = MIN(block, match->position - at);
        above = node;
        node = tree_child(above, tokens + at, size, at < match->first ? size : 0, &same);
        if (!node || same < size)
            return error_set(error, HYPURA_ERROR_IO, "a kept prefix of the text has been removed");
        node->round = store->tree.round;
        if (at >= match->first)
            TRY(use(store, &node->rows, target, error));
    }
    if (store->options.needs_checkpoint) {
        uint32_t at = above->first + above->count;
        struct checkpoint *checkpoint = last_checkpoint(above, tokens + at, match->position - at);
        if (!checkpoint || checkpoint->item.part.end != match->position)
            return error_set(error, HYPURA_ERROR_IO, "a checkpoint of the text has been removed");
        TRY(use(store, &checkpoint->item, target, error));
    } else {
        TRY(target->write_checkpoint(target->context, match->position, NULL, 0, error));
    }
    touch_path(store, node);
    return HYPURA_OK;
}

hypura_status prefix_restore(struct prefix_store *store, const int32_t *tokens, const struct prefix_match *match,
                             const struct prefix_target *target, hypura_error *error)
{
    begin(store);
    hypura_status status = restore(store, tokens, match, target, error);
    if (status) {
        tree_sweep(&store->tree); /* a file may be gone */
    } else {
        atomic_fetch_add(&store->restored_tokens, match->position);
        atomic_fetch_add(&store->restores, 1);
    }
    finish(store, NULL);
    return status;
}

void prefix_shrink(struct prefix_store *store, uint64_t bytes)
{
    begin(store);
    while (store->taken + store->tree.bytes > bytes && evict(store))
        continue;
    uint64_t left = MAX(bytes, store->taken + store->tree.bytes);
    if (left < store->granted && (!store->options.lend || store->options.lend(store->options.lend_context, left)))
        store->granted = left;
    finish(store, NULL);
}

/* ---- beginning and end ---------------------------------------------------------------------------------------------
 */

hypura_status prefix_open(struct prefix_store **out, const struct prefix_options *options, hypura_error *error)
{
    struct prefix_store *store;
    TRY(ALLOCATE(&store, 1, "prefix store", error));
    pthread_mutex_init(&store->mutex, NULL);
    store->options = *options;
    store->tree.block = options->block;
    store->has_drive = options->folder;
    hypura_status status = options->folder ? drive_open(&store->drive, options, error) : HYPURA_OK;
    if (status) {
        pthread_mutex_destroy(&store->mutex);
        memory_free(store);
        return status;
    }
    look_again(store);
    count_memory(store);
    *out = store;
    return HYPURA_OK;
}

void prefix_close(struct prefix_store *store, bool leave)
{
    if (!store)
        return;
    bool resting = false;
    for (struct item *item = store->oldest; item && store->has_drive && !leave && !resting; item = item->newer) {
        if (is_unwritten(item))
            write_item(store, item);
        resting = clock_nanoseconds() < store->drive.rest_until;
    }
    while (store->oldest)
        drop(store, store->oldest);
    tree_free(&store->tree);
    drive_close(&store->drive);
    pthread_mutex_destroy(&store->mutex);
    memory_free(store);
}

bool prefix_outlasts(const struct prefix_store *store)
{
    return store->has_drive;
}

void prefix_statistics(const struct prefix_store *store, struct prefix_statistics *out)
{
    *out = (struct prefix_statistics){.bytes = atomic_load(&store->bytes),
                                      .limit = store->options.bytes,
                                      .folder_bytes = atomic_load(&store->folder_bytes),
                                      .restored_tokens = atomic_load(&store->restored_tokens),
                                      .restores = atomic_load(&store->restores),
                                      .read_bytes = atomic_load(&store->read_bytes),
                                      .written_bytes = atomic_load(&store->written_bytes),
                                      .evicted_bytes = atomic_load(&store->evicted_bytes)};
}
