/* libFuzzer target: the first line names the model to pull, the rest is the network's answers. Whatever they are, the
 * model folder contains only complete models and partial downloads, and nothing is written outside of it. */
#include "fuzz.h"

#include "fake_fetch.h"
#include "server/mhd.h"
#include "server/server.h"

#include <dirent.h>
#include <ftw.h>
#include <stdlib.h>

/* The target serves no requests. */
struct mhd mhd;
const char page_html[] = "";
const size_t page_html_size;

hypura_status mhd_load(hypura_error *error)
{
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "no HTTP here");
}

static char folder[] = "/tmp/hypura-fuzz-pull-XXXXXX";

static bool go_on(void *context, const json_t *event)
{
    int *events = context;
    must(json_is_string(json_object_get(event, "status")));
    return --*events > 0;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info, (void)kind, (void)place;
    return remove(path);
}

/* Checks and empties the folder. */
static void look_at_folder(void)
{
    DIR *list = opendir(folder);
    char path[600];
    must(list != NULL);
    for (struct dirent *file; (file = readdir(list));) {
        size_t length = strlen(file->d_name);
        if (strcmp(file->d_name, ".") == 0 || strcmp(file->d_name, "..") == 0)
            continue;
        must((length > 5 && strcmp(file->d_name + length - 5, ".gguf") == 0) ||
             (length > 5 && strcmp(file->d_name + length - 5, ".json") == 0) ||
             (length > 7 && strcmp(file->d_name + length - 7, ".source") == 0) ||
             strcmp(file->d_name, "weights") == 0 ||
             (length > 8 && strcmp(file->d_name + length - 8, ".partial") == 0));
        must(strncmp(file->d_name, ".check", 6) != 0);
        snprintf(path, sizeof path, "%s/%s", folder, file->d_name);
        must(nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS) == 0);
    }
    closedir(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct registry *registry;
    static struct engine_options options;
    if (!registry) {
        must(mkdtemp(folder) != NULL);
        must(registry_open(&registry, folder, NULL, 0, NULL) == HYPURA_OK);
        engine_default_options(&options);
        options.budget = (uint64_t)64 << 20;
    }
    char reference[300];
    const uint8_t *line = memchr(data, '\n', size);
    size_t length = line ? (size_t)(line - data) : size;
    snprintf(reference, sizeof reference, "%.*s", (int)(length < sizeof reference ? length : sizeof reference - 1),
             (const char *)data);
    int events = 200;
    for (int turn = 0; turn < 2; turn++) { /* the second continues the first one's partial download */
        hypura_error error = {0};
        fake_fetch_set(line ? line + 1 : data, line ? size - length - 1 : 0);
        must_explain(registry_pull(registry, reference, &options, go_on, &events, &error), &error);
    }
    hypura_error error = {0};
    json_t *tags = registry_tags(registry, &error, &error);
    must(json_is_array(json_object_get(tags, "models")));
    json_decref(tags);
    look_at_folder();
    return 0;
}
