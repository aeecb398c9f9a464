/* Private to template/: values, the program, and the state of a rendering.
 *
 * All memory comes from an arena: the program's from the template's workspace, values' from the rendering's. Nothing is
 * freed individually, so an error can leave from any depth with longjmp. */
#ifndef HYPURA_TEMPLATE_PRIVATE_H
#define HYPURA_TEMPLATE_PRIVATE_H

#include "core/core.h"
#include "template/template.h"

#include <setjmp.h>

/* ---- workspace: memory and errors ---------------------------------------------------------------------------------
 */

struct jinja_block;

struct workspace {
    struct jinja_block *blocks;
    size_t used, limit; /* in bytes */
    int line;           /* the current line of the template, for messages */
    uint64_t steps;
    const struct work_watch *watch; /* or NULL */
    hypura_error *error;
    hypura_status status;
    jmp_buf escape;
};

_Noreturn void jinja_fail_memory(struct workspace *w);

/* Returns zeroed memory, aligned for any type. Jumps to escape if the limit is exceeded or memory runs out. */
void *jinja_allocate(struct workspace *w, size_t size);

/* Returns an array of count items with room for one more: items itself, or a copy with a larger capacity (at least
 * `least`). */
void *jinja_grow(struct workspace *w, void *items, size_t count, size_t *capacity, size_t least, size_t item_size);
void workspace_free(struct workspace *w);

/* Sets the error to "chat template, line N: ..." and jumps to escape. */
_Noreturn void jinja_fail(struct workspace *w, const char *format, ...) PRINTF_LIKE(2, 3);

/* Counts steps. Fails if the rendering has taken too many. */
void workspace_step(struct workspace *w, size_t cost);

/* ---- values -------------------------------------------------------------------------------------------------------
 */

enum value_kind {
    VALUE_MISSING, /* an argument that was not passed; templates never see it */
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOLEAN,
    VALUE_INTEGER,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_DICT,
    VALUE_NAMESPACE,
    VALUE_CALLABLE,
    VALUE_LOOP,
    VALUE_CYCLER,
};

/* The kinds of sequences and iterables that Python distinguishes. */
enum list_type { LIST_PLAIN, LIST_TUPLE, LIST_RANGE, LIST_VIEW, LIST_GENERATOR };

struct value {
    enum value_kind kind;
    union {
        bool boolean;
        int64_t integer;
        double number;
        const char *reason; /* undefined: the error message for its use */
        const struct string *string;
        struct list *list;
        struct dict *dict; /* also for VALUE_NAMESPACE */
        struct callable *callable;
        struct loop *loop;
        struct cycler *cycler;
    };
};

/* Bytes and their origin. spans: the bytes from users, sorted, not adjacent and not empty. Immutable. */
struct string {
    const char *bytes;
    size_t size;
    const struct text_range *spans;
    size_t span_count;
    bool ascii;
};

struct list {
    enum list_type type;
    const char *view; /* LIST_VIEW: "dict_items", ... */
    struct value *items;
    size_t count, capacity;
};

struct dict_entry {
    struct value key, value;
    uint64_t hash;
};

/* Entries are in order of insertion. slots is an open-addressed index of entries + 1, made for more than 8 of them. */
struct dict {
    struct dict_entry *entries;
    size_t count, capacity;
    uint32_t *slots;
    size_t slot_count;
};

struct arguments {
    struct value *positional;
    size_t count;
    struct dict named; /* keys are strings */
};

struct jinja; /* one rendering, below */

typedef struct value (*builtin_function)(struct jinja *j, struct value self, const struct arguments *arguments);

/* A filter, test, method or global function. parameters: their names, each followed by a space; the function then gets
 * exactly that many positional arguments, with VALUE_MISSING for those that were not passed. NULL: it gets the
 * arguments unchanged. */
struct builtin {
    const char *name;
    const char *parameters;
    builtin_function call;
};

struct callable {
    const struct builtin *builtin; /* NULL: a macro */
    struct value self;
    const struct node *macro;
    struct scope *scope; /* the scope that defines the macro */
};

struct loop {
    struct value *items;
    size_t count, index; /* index of the current item */
    size_t depth;        /* 0: the outermost loop of a recursion */
    const struct node *node;
    struct scope *scope;
    struct value last_changed;
    bool has_changed;
};

struct cycler {
    struct value *items;
    size_t count, index;
    bool joiner; /* returns "" the first time and items[0] afterwards */
};

struct value value_none(void);
struct value value_boolean(bool boolean);
struct value value_integer(int64_t integer);
struct value value_float(double number);
struct value value_undefined(struct workspace *w, const char *format, ...) PRINTF_LIKE(2, 3);
struct value value_from_string(const struct string *string);
struct value value_from_text(struct workspace *w, const char *text); /* borrows text */
struct value value_from_bytes(struct workspace *w, const char *bytes, size_t size, bool user);
struct value value_from_json(struct workspace *w, const json_t *json, bool user, size_t depth);

const char *value_type_name(struct value value); /* as Python prints it: "str", "list", ... */
bool value_is_true(struct jinja *j, struct value value);
bool value_is_number(struct value value); /* booleans are numbers */
double value_as_number(struct value value);
int64_t value_as_integer(struct value value); /* takes a boolean or an integer */
bool value_equal(struct jinja *j, struct value a, struct value b);
int value_compare(struct jinja *j, struct value a, struct value b, const char *operation); /* <0, 0, >0 */
int value_compare_numbers(struct value a, struct value b);                                 /* <0, 0, >0 */
bool value_contains(struct jinja *j, struct value container, struct value item);
_Noreturn void value_fail_undefined(struct jinja *j, struct value value);

struct value list_new(struct workspace *w, enum list_type type, size_t capacity);
void list_append(struct workspace *w, struct list *list, struct value item);
void list_turn_round(struct list *list);
struct value dict_new(struct workspace *w);
struct value *dict_find(struct jinja *j, const struct dict *dict, struct value key);
struct value *dict_find_text(struct jinja *j, const struct dict *dict, const char *text, size_t size);
void dict_set(struct workspace *w, struct dict *dict, struct value key, struct value value);
bool dict_remove(struct workspace *w, struct dict *dict, struct value key);

/* Returns the items of an iterable, which the caller must not change. A generator is empty afterwards. Fails if the
 * value is not iterable. */
struct list jinja_iterate(struct jinja *j, struct value value);

/* ---- strings ------------------------------------------------------------------------------------------------------
 */

struct builder {
    struct workspace *w;
    char *bytes;
    size_t size, capacity, limit;
    struct text_range *spans;
    size_t span_count, span_capacity;
};

void builder_begin(struct builder *b, struct workspace *w);
void builder_bytes(struct builder *b, const char *bytes, size_t size, bool user);
void builder_text(struct builder *b, const char *text); /* template text */
void builder_string(struct builder *b, const struct string *s);
void builder_part(struct builder *b, const struct string *s, size_t start,
                  size_t end); /* bytes start .. end - 1 of s */
struct value builder_end(struct builder *b);

struct value string_part(struct workspace *w, const struct string *s, size_t start, size_t end);
bool string_is(const struct string *s, const char *text);
size_t string_length(const struct string *s);                    /* in characters */
size_t string_offset(const struct string *s, size_t characters); /* byte offset of a character */
size_t string_find(const struct string *s, const struct string *needle, size_t from, size_t to); /* SIZE_MAX: none */
bool string_is_user(const struct string *s, size_t start, size_t end); /* whether any byte of the part is */
size_t utf8_next(const char *bytes, size_t size, size_t at, int32_t *character);
bool character_is_space(int32_t character); /* like Python's str.isspace */

/* The text of a value as Python's str() and repr() return it. */
const struct string *value_string(struct jinja *j, struct value value);
void value_write(struct jinja *j, struct builder *b, struct value value);
void value_write_repr(struct jinja *j, struct builder *b, struct value value, size_t depth);

struct json_layout {
    const struct string *indent; /* NULL: all on one line */
    const char *item_separator, *key_separator;
    bool ascii, sort_keys;
};
void value_write_json(struct jinja *j, struct builder *b, struct value value, const struct json_layout *layout,
                      size_t depth);

struct value string_format_percent(struct jinja *j, const struct string *format, struct value argument);
struct value string_format_braces(struct jinja *j, const struct string *format, const struct arguments *arguments);
struct value time_format(struct jinja *j, const struct string *format, int64_t now);

/* ---- the program --------------------------------------------------------------------------------------------------
 */

enum node_kind {
    /* expressions */
    NODE_CONSTANT,  /* constant */
    NODE_NAME,      /* text */
    NODE_TUPLE,     /* first.. */
    NODE_LIST,      /* first.. */
    NODE_DICT,      /* first..: key, value, key, value */
    NODE_ATTRIBUTE, /* a.text */
    NODE_ITEM,      /* a[b] */
    NODE_SLICE,     /* a[b:c:d], each may be NULL */
    NODE_CALL,      /* a(first..) */
    NODE_FILTER,    /* a | text(first..), builtin */
    NODE_TEST,      /* a is text(first..), builtin */
    NODE_NEGATIVE,
    NODE_POSITIVE,
    NODE_NOT,
    NODE_AND,
    NODE_OR,
    NODE_BINARY,   /* a operation b */
    NODE_CONCAT,   /* first.. */
    NODE_COMPARE,  /* a, then first..: nodes NODE_OPERAND */
    NODE_OPERAND,  /* operation a */
    NODE_CHOICE,   /* a if b else c */
    NODE_CAPTURED, /* the text of the enclosing block */
    /* arguments of a call */
    NODE_KEYWORD,         /* text = a */
    NODE_SPREAD,          /* *a */
    NODE_SPREAD_KEYWORDS, /* **a */
    /* statements */
    NODE_TEXT,         /* constant */
    NODE_OUTPUT,       /* first.. */
    NODE_FOR,          /* for a in b if c: first.. else second.. */
    NODE_IF,           /* a: first.. else second.. */
    NODE_SET,          /* a = b */
    NODE_SET_BLOCK,    /* a = b, an expression over NODE_CAPTURED of first.. */
    NODE_FILTER_BLOCK, /* b over first.. */
    NODE_MACRO,        /* text, parameters second.. (NODE_KEYWORD, a may be NULL), body first.. */
    NODE_CALL_BLOCK,   /* a is the call, b the macro of the block */
    NODE_WITH,         /* second..: NODE_SET, body first.. */
    NODE_SCOPE,        /* first.. in their own scope */
    NODE_DO,           /* a */
    NODE_BREAK,
    NODE_CONTINUE,
};

enum operation {
    OPERATION_ADD,
    OPERATION_SUBTRACT,
    OPERATION_MULTIPLY,
    OPERATION_DIVIDE,
    OPERATION_FLOOR_DIVIDE,
    OPERATION_MODULO,
    OPERATION_POWER,
    OPERATION_EQUAL,
    OPERATION_NOT_EQUAL,
    OPERATION_LESS,
    OPERATION_LESS_EQUAL,
    OPERATION_GREATER,
    OPERATION_GREATER_EQUAL,
    OPERATION_IN,
    OPERATION_NOT_IN,
};

struct node {
    enum node_kind kind;
    enum operation operation;
    int line;
    bool recursive;                 /* for */
    bool elif;                      /* if: an elif branch */
    bool any_positional, any_named; /* macro: its body uses varargs or kwargs */
    struct node *next;
    struct node *a, *b, *c, *d;
    struct node *first, *second;
    const struct string *text;
    const struct builtin *builtin;
    struct value constant;
};

struct chat_template {
    struct workspace w;
    const char *source;
    size_t size;
    struct node *program;
};

/* ---- tokens -------------------------------------------------------------------------------------------------------
 */

enum token_kind {
    TOKEN_TEXT, /* text between tags */
    TOKEN_OUTPUT_BEGIN,
    TOKEN_OUTPUT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_OPERATOR,
    TOKEN_END,
};

struct token {
    enum token_kind kind;
    int line;
    char operator[3];
    struct value value; /* a string (text, name, string) or a number */
};

/* Splits a template into tokens, the last of which is TOKEN_END, and applies white space control. */
struct token *jinja_tokenize(struct workspace *w, const char *source, size_t size);

struct parser {
    struct workspace *w;
    const struct token *token;
    size_t depth;
};

struct node *jinja_parse(struct workspace *w, const struct token *tokens);
struct node *node_new(struct parser *p, enum node_kind kind);
bool parser_at(const struct parser *p, const char *operator);
bool parser_at_name(const struct parser *p, const char *name);
bool parser_accept(struct parser *p, const char *operator);
bool parser_accept_name(struct parser *p, const char *name);
void parser_expect(struct parser *p, const char *operator);
_Noreturn void parser_fail_expected(struct parser *p, const char *expected);
void parser_enter(struct parser *p); /* counts nesting; the caller undoes it with p->depth-- */
struct node *parse_expression(struct parser *p);
/* parse_tuple: expressions separated by commas form a tuple. with_condition: "a if b else c" is allowed. parse_target:
 * a target of an assignment is one or more names; with_attribute: or an attribute of a name. */
struct node *parse_tuple(struct parser *p, bool with_condition);
struct node *parse_target(struct parser *p, bool with_attribute);
struct node *parse_filters(struct parser *p, struct node *node); /* starts at "|" */
struct node *parse_filter_name(struct parser *p, struct node *input);

/* ---- rendering ----------------------------------------------------------------------------------------------------
 */

struct variable {
    const struct string *name;
    struct value value;
    struct variable *next;
};

struct scope {
    struct scope *parent;
    struct variable *variables;
};

struct jinja {
    struct workspace w;
    struct scope *scope;
    struct builder *out;
    struct value captured;
    size_t depth;
    int64_t now;
    struct dict globals;
};

void jinja_step(struct jinja *j, size_t cost); /* workspace_step */
/* Counts the steps of an operation that must find the characters of a text: one per 16 bytes if it is not ASCII. */
void jinja_step_characters(struct jinja *j, const struct string *text);
void jinja_enter(struct jinja *j); /* counts depth; the caller undoes it with j->depth-- */

/* Runs a program with user variables and trusted ones (or NULL), and writes to out. */
void jinja_render(struct jinja *j, const struct node *program, const json_t *variables, const json_t *trusted,
                  struct builder *out);

struct value jinja_evaluate(struct jinja *j, const struct node *node);
struct value jinja_binary(struct jinja *j, enum operation operation, struct value a, struct value b);
struct value jinja_negate(struct jinja *j, struct value number);
bool jinja_compare(struct jinja *j, enum operation operation, struct value a, struct value b);
struct value jinja_call(struct jinja *j, struct value function, const struct arguments *arguments);
struct value jinja_call_builtin(struct jinja *j, const struct builtin *builtin, struct value self,
                                const struct arguments *arguments);
/* Converts a value to a string and calls the method of that name, which must exist. */
struct value jinja_call_method(struct jinja *j, struct value self, const char *name, const struct arguments *arguments);
struct value jinja_call_macro(struct jinja *j, const struct callable *macro, const struct arguments *arguments);
struct value jinja_call_loop(struct jinja *j, struct loop *loop, const struct arguments *arguments);
struct arguments jinja_arguments(struct jinja *j, const struct node *first);
struct value jinja_attribute(struct jinja *j, struct value target, const struct string *name);
struct value jinja_item(struct jinja *j, struct value target, struct value index);
struct value jinja_slice(struct jinja *j, struct value target, struct value start, struct value stop,
                         struct value step);
struct value *scope_find(struct jinja *j, const struct scope *scope, const struct string *name);
void scope_set(struct jinja *j, const struct string *name, struct value value);

/* Look up a name in the tables. Return NULL if it is unknown. */
const struct builtin *jinja_find_sequence_filter(const struct string *name);
const struct builtin *jinja_find_filter(const struct string *name);
const struct builtin *jinja_find_test(const struct string *name);
const struct builtin *jinja_find_string_method(const struct string *name);
const struct builtin *jinja_find_letter_method(const struct string *name);
const struct builtin *jinja_find_method(struct value self, const struct string *name);
const struct builtin *jinja_find_global(const struct string *name);
const struct builtin *builtin_find(const struct builtin *table, size_t count, const struct string *name);

/* Return an argument of a builtin function. Fail with `what` in the message if it has the wrong type.
 * argument_integer: `otherwise` if the argument is missing. */
const struct string *argument_string(struct jinja *j, struct value value, const char *what);
int64_t argument_integer(struct jinja *j, struct value value, int64_t otherwise, const char *what);

#endif
