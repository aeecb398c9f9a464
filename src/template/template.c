/* The functions of template.h: they set the limits of a program, and errors jump back to them. */
#include "template/template_private.h"

#include <locale.h>
#include <pthread.h>
#include <string.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

#define MAX_SOURCE ((size_t)1 << 20)
#define MAX_PROGRAM_BYTES ((size_t)256 << 20)
#define MAX_RENDER_BYTES ((size_t)512 << 20)

static locale_t plain_locale;

static void make_plain_locale(void)
{
    plain_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

/* Sets a locale in which 0.5 has a point, as in templates and their output; the application may have set another.
 * Returns the locale to restore with uselocale. */
static locale_t use_plain_locale(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_plain_locale);
    return uselocale(plain_locale);
}

static void parse(struct chat_template *template, const char *source, size_t size)
{
    char *copy = jinja_allocate(&template->w, size + 1);
    memcpy(copy, source, size);
    template->source = copy;
    template->size = size;
    template->program = jinja_parse(&template->w, jinja_tokenize(&template->w, source, size));
}

hypura_status chat_template_parse(struct chat_template **out, const char *source, size_t size, hypura_error *error)
{
    if (size > MAX_SOURCE)
        return error_set(error, HYPURA_ERROR_FORMAT, "the chat template has %zu bytes, more than the %zu allowed", size,
                         MAX_SOURCE);
    struct chat_template *template;
    hypura_status status = ALLOCATE(&template, 1, "chat template", error);
    if (status != HYPURA_OK)
        return status;
    template->w.limit = MAX_PROGRAM_BYTES;
    template->w.error = error;
    locale_t before = use_plain_locale();
    if (setjmp(template->w.escape)) {
        uselocale(before);
        status = template->w.status;
        chat_template_free(template);
        return status;
    }
    parse(template, source, size);
    uselocale(before);
    template->w.error = NULL;
    *out = template;
    return HYPURA_OK;
}

bool chat_template_mentions(const struct chat_template *template, const char *text)
{
    return memmem(template->source, template->size, text, strlen(text)) != NULL;
}

void chat_template_free(struct chat_template *template)
{
    if (!template)
        return;
    workspace_free(&template->w);
    memory_free(template);
}

static hypura_status copy_result(const struct builder *out, struct rendered_text *result, hypura_error *error)
{
    struct rendered_text copy = {.size = out->size, .user_count = out->span_count};
    if (!work_may_take(out->w->watch, out->size + out->span_count * sizeof *copy.user))
        return error_set(error, HYPURA_ERROR_MEMORY,
                         "the prompt of %zu bytes needs more memory than is available to it", out->size);
    hypura_status status = ALLOCATE(&copy.text, out->size + 1, "rendered prompt", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&copy.user, out->span_count, "rendered prompt", error);
    if (status != HYPURA_OK) {
        rendered_text_free(&copy);
        return status;
    }
    if (out->size)
        memcpy(copy.text, out->bytes, out->size);
    if (out->span_count)
        memcpy(copy.user, out->spans, out->span_count * sizeof *copy.user);
    *result = copy;
    return HYPURA_OK;
}

hypura_status chat_template_render(const struct chat_template *template, const json_t *variables, const json_t *trusted,
                                   int64_t now, const struct work_watch *watch, struct rendered_text *out,
                                   hypura_error *error)
{
    struct jinja *j;
    hypura_status status = ALLOCATE(&j, 1, "chat template", error);
    if (status != HYPURA_OK)
        return status;
    j->w.limit = MAX_RENDER_BYTES;
    j->w.error = error;
    j->now = now;
    j->w.watch = watch;
    struct builder text;
    locale_t before = use_plain_locale();
    if (setjmp(j->w.escape)) {
        status = j->w.status;
    } else {
        jinja_render(j, template->program, variables, trusted, &text);
        status = copy_result(&text, out, error);
    }
    uselocale(before);
    workspace_free(&j->w);
    memory_free(j);
    return status;
}

void rendered_text_free(struct rendered_text *rendered)
{
    memory_free(rendered->text);
    memory_free(rendered->user);
    *rendered = (struct rendered_text){0};
}
