/* A temporary folder for a test's files. make_folder and remove_folder are its set-up and tear-down. */
#ifndef HYPURA_TEST_FOLDER_H
#define HYPURA_TEST_FOLDER_H

#include "test.h"

#include <ftw.h>

static char test_folder[256];

static int make_folder(void **state)
{
    (void)state;
    const char *temporary = getenv("TMPDIR");
    snprintf(test_folder, sizeof test_folder, "%s/hypura-test-XXXXXX", temporary ? temporary : "/tmp");
    return mkdtemp(test_folder) ? 0 : -1;
}

static int remove_in_folder(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info, (void)kind, (void)where;
    return remove(path);
}

static int remove_folder(void **state)
{
    (void)state;
    return nftw(test_folder, remove_in_folder, 8, FTW_DEPTH | FTW_PHYS);
}

/* The path of a file in the folder. The result is valid until the eighth further call. */
__attribute__((unused)) static const char *path_in_folder(const char *name)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", test_folder, name);
    return path;
}

#endif
