/* Python's string methods that test letters or change their case. */
#include "template/template_private.h"

#include <utf8proc.h>

typedef const struct arguments *args;

static bool is_letter(int32_t c)
{
    utf8proc_category_t category = c < 0 ? UTF8PROC_CATEGORY_CN : utf8proc_category(c);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

static bool is_digit(int32_t c)
{
    return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_ND;
}

static bool is_upper(int32_t c)
{
    return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_LU;
}

static bool is_lower(int32_t c)
{
    return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_LL;
}

enum letter_case { CASE_LOWER, CASE_UPPER, CASE_TITLE, CASE_CAPITALIZE, CASE_SWAP };

static struct value change_case(struct jinja *j, const struct string *s, enum letter_case how)
{
    struct builder b;
    builder_begin(&b, &j->w);
    bool in_word = false;
    jinja_step(j, s->size / 16);
    for (size_t at = 0; at < s->size;) {
        int32_t c;
        size_t next = utf8_next(s->bytes, s->size, at, &c);
        bool up = how == CASE_UPPER || (how == CASE_TITLE && !in_word) || (how == CASE_CAPITALIZE && at == 0) ||
                  (how == CASE_SWAP && is_lower(c));
        in_word = is_letter(c);
        if (c < 0) {
            builder_part(&b, s, at, next);
        } else {
            /* The only common letter whose upper case has two letters. */
            utf8proc_uint8_t bytes[4] = "SS";
            utf8proc_ssize_t size = 2;
            if (!(up && c == 0xdf))
                size = utf8proc_encode_char(!up                 ? utf8proc_tolower(c)
                                            : how == CASE_UPPER ? utf8proc_toupper(c)
                                                                : utf8proc_totitle(c),
                                            bytes);
            builder_bytes(&b, (const char *)bytes, (size_t)size, string_is_user(s, at, next));
        }
        at = next;
    }
    return builder_end(&b);
}

#define CASE_METHOD(name, how)                                                                                         \
    static struct value string_##name(struct jinja *j, struct value self, args a)                                      \
    {                                                                                                                  \
        (void)a;                                                                                                       \
        return change_case(j, self.string, how);                                                                       \
    }

CASE_METHOD(lower, CASE_LOWER)
CASE_METHOD(upper, CASE_UPPER)
CASE_METHOD(title, CASE_TITLE)
CASE_METHOD(capitalize, CASE_CAPITALIZE)
CASE_METHOD(swapcase, CASE_SWAP)

/* True if there is at least one character and all of them pass. */
static struct value all_characters(struct jinja *j, const struct string *s, bool (*passes)(int32_t))
{
    jinja_step(j, s->size / 16);
    bool all = s->size > 0;
    for (size_t at = 0; all && at < s->size;) {
        int32_t c;
        at = utf8_next(s->bytes, s->size, at, &c);
        all = passes(c);
    }
    return value_boolean(all);
}

static bool is_letter_or_digit(int32_t c)
{
    return is_letter(c) || is_digit(c);
}

static bool is_name_character(int32_t c)
{
    return c == '_' || is_letter_or_digit(c);
}

#define CLASS_METHOD(name, passes)                                                                                     \
    static struct value string_##name(struct jinja *j, struct value self, args a)                                      \
    {                                                                                                                  \
        (void)a;                                                                                                       \
        return all_characters(j, self.string, passes);                                                                 \
    }

CLASS_METHOD(isalpha, is_letter)
CLASS_METHOD(isdigit, is_digit)
CLASS_METHOD(isalnum, is_letter_or_digit)
CLASS_METHOD(isspace, character_is_space)

static struct value string_isidentifier(struct jinja *j, struct value self, args a)
{
    (void)a;
    int32_t first = '0';
    if (self.string->size)
        utf8_next(self.string->bytes, self.string->size, 0, &first);
    return value_boolean(!is_digit(first) && all_characters(j, self.string, is_name_character).boolean);
}

/* True if some letter has the wanted case and none the other one. */
static struct value one_case(struct jinja *j, const struct string *s, bool (*wanted)(int32_t), bool (*other)(int32_t))
{
    jinja_step(j, s->size / 16);
    bool some = false;
    for (size_t at = 0; at < s->size;) {
        int32_t c;
        at = utf8_next(s->bytes, s->size, at, &c);
        if (other(c))
            return value_boolean(false);
        some |= wanted(c);
    }
    return value_boolean(some);
}

static struct value string_islower(struct jinja *j, struct value self, args a)
{
    (void)a;
    return one_case(j, self.string, is_lower, is_upper);
}

static struct value string_isupper(struct jinja *j, struct value self, args a)
{
    (void)a;
    return one_case(j, self.string, is_upper, is_lower);
}

static const struct builtin letter_methods[] = {
    {"capitalize", "", string_capitalize},     {"casefold", "", string_lower},    {"isalnum", "", string_isalnum},
    {"isalpha", "", string_isalpha},           {"isdecimal", "", string_isdigit}, {"isdigit", "", string_isdigit},
    {"isidentifier", "", string_isidentifier}, {"islower", "", string_islower},   {"isnumeric", "", string_isdigit},
    {"isspace", "", string_isspace},           {"isupper", "", string_isupper},   {"lower", "", string_lower},
    {"swapcase", "", string_swapcase},         {"title", "", string_title},       {"upper", "", string_upper},
};

const struct builtin *jinja_find_letter_method(const struct string *name)
{
    return builtin_find(letter_methods, COUNT_OF(letter_methods), name);
}
