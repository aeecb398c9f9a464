/* Parses expressions. Operator precedence is Jinja's: "-2 ** 2" is 4, and filters bind tighter than any operator. */
#include "template/template_private.h"

#include <string.h>

#define MAX_NESTING 100

struct node *node_new(struct parser *p, enum node_kind kind)
{
    struct node *node = jinja_allocate(p->w, sizeof *node);
    node->kind = kind;
    node->line = p->token->line;
    return node;
}

void parser_enter(struct parser *p)
{
    if (++p->depth > MAX_NESTING)
        jinja_fail(p->w, "nested more than %d levels deep", MAX_NESTING);
}

static void advance(struct parser *p)
{
    if (p->token->kind != TOKEN_END)
        p->token++;
    p->w->line = p->token->line;
}

bool parser_at(const struct parser *p, const char *operator)
{
    return p->token->kind == TOKEN_OPERATOR && strcmp(p->token->operator, operator) == 0;
}

bool parser_at_name(const struct parser *p, const char *name)
{
    return p->token->kind == TOKEN_NAME && string_is(p->token->value.string, name);
}

bool parser_accept(struct parser *p, const char *operator)
{
    if (!parser_at(p, operator))
        return false;
    advance(p);
    return true;
}

bool parser_accept_name(struct parser *p, const char *name)
{
    if (!parser_at_name(p, name))
        return false;
    advance(p);
    return true;
}

_Noreturn void parser_fail_expected(struct parser *p, const char *expected)
{
    const struct token *token = p->token;
    switch (token->kind) {
    case TOKEN_NAME:
    case TOKEN_STRING:
        jinja_fail(p->w, "expected %s, found '%.*s'", expected, (int)MIN(token->value.string->size, (size_t)60),
                   token->value.string->bytes);
    case TOKEN_OPERATOR:
        jinja_fail(p->w, "expected %s, found '%s'", expected, token->operator);
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        jinja_fail(p->w, "expected %s, found a number", expected);
    case TOKEN_OUTPUT_END:
        jinja_fail(p->w, "expected %s, found '}}'", expected);
    case TOKEN_BLOCK_END:
        jinja_fail(p->w, "expected %s, found '%%}'", expected);
    default:
        jinja_fail(p->w, "expected %s, found the end of the template", expected);
    }
}

void parser_expect(struct parser *p, const char *operator)
{
    if (parser_accept(p, operator))
        return;
    char text[8] = "'";
    strcat(text, operator);
    strcat(text, "'");
    parser_fail_expected(p, text);
}

static const struct string *expect_name(struct parser *p)
{
    if (p->token->kind != TOKEN_NAME)
        parser_fail_expected(p, "a name");
    const struct string *name = p->token->value.string;
    advance(p);
    return name;
}

/* ---- lists of expressions -----------------------------------------------------------------------------------------
 */

static bool at_tuple_end(const struct parser *p)
{
    return p->token->kind == TOKEN_OUTPUT_END || p->token->kind == TOKEN_BLOCK_END || parser_at(p, ")") ||
           parser_at_name(p, "recursive");
}

static struct node *parse_choice(struct parser *p, bool with_condition);

/* Parses one expression, or several separated by commas as a tuple. in_parentheses: there may be none. */
static struct node *parse_tuple_in(struct parser *p, bool with_condition, bool in_parentheses)
{
    struct node *tuple = node_new(p, NODE_TUPLE);
    struct node **end = &tuple->first;
    bool comma = in_parentheses && at_tuple_end(p);
    while (!at_tuple_end(p)) {
        *end = parse_choice(p, with_condition);
        end = &(*end)->next;
        if (!parser_accept(p, ","))
            break;
        comma = true;
    }
    if (comma)
        return tuple;
    if (!tuple->first)
        parser_fail_expected(p, "an expression");
    return tuple->first;
}

struct node *parse_tuple(struct parser *p, bool with_condition)
{
    return parse_tuple_in(p, with_condition, false);
}

static struct node *parse_target_one(struct parser *p, bool with_attribute)
{
    if (parser_accept(p, "(")) {
        parser_enter(p);
        struct node *inner = parse_target(p, with_attribute);
        p->depth--;
        parser_expect(p, ")");
        return inner;
    }
    static const char *const constants[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < COUNT_OF(constants); i++)
        if (parser_at_name(p, constants[i]))
            parser_fail_expected(p, "a name to assign to");
    struct node *name = node_new(p, NODE_NAME);
    name->text = expect_name(p);
    if (!with_attribute || !parser_accept(p, "."))
        return name;
    struct node *attribute = node_new(p, NODE_ATTRIBUTE);
    attribute->a = name;
    attribute->text = expect_name(p);
    return attribute;
}

struct node *parse_target(struct parser *p, bool with_attribute)
{
    struct node *tuple = node_new(p, NODE_TUPLE);
    struct node **end = &tuple->first;
    bool comma = false;
    do {
        if (comma && (at_tuple_end(p) || parser_at_name(p, "in") || parser_at(p, "=")))
            break;
        *end = parse_target_one(p, with_attribute);
        end = &(*end)->next;
        if (!parser_accept(p, ","))
            break;
        comma = true;
    } while (true);
    return comma ? tuple : tuple->first;
}

/* ---- primary expressions ------------------------------------------------------------------------------------------
 */

static struct node *constant(struct parser *p, struct value value)
{
    struct node *node = node_new(p, NODE_CONSTANT);
    node->constant = value;
    advance(p);
    return node;
}

static struct node *parse_strings(struct parser *p)
{
    struct node *node = node_new(p, NODE_CONSTANT);
    node->constant = p->token->value;
    advance(p);
    if (p->token->kind != TOKEN_STRING)
        return node;
    struct builder b;
    builder_begin(&b, p->w);
    builder_string(&b, node->constant.string);
    for (; p->token->kind == TOKEN_STRING; advance(p))
        builder_string(&b, p->token->value.string);
    node->constant = builder_end(&b);
    return node;
}

static struct node *parse_list(struct parser *p)
{
    struct node *list = node_new(p, NODE_LIST);
    struct node **end = &list->first;
    while (!parser_accept(p, "]")) {
        *end = parse_expression(p);
        end = &(*end)->next;
        if (!parser_at(p, "]"))
            parser_expect(p, ",");
    }
    return list;
}

static struct node *parse_dict(struct parser *p)
{
    struct node *dict = node_new(p, NODE_DICT);
    struct node **end = &dict->first;
    while (!parser_accept(p, "}")) {
        *end = parse_expression(p);
        end = &(*end)->next;
        parser_expect(p, ":");
        *end = parse_expression(p);
        end = &(*end)->next;
        if (!parser_at(p, "}"))
            parser_expect(p, ",");
    }
    return dict;
}

static struct node *parse_primary(struct parser *p)
{
    switch (p->token->kind) {
    case TOKEN_NAME:
        if (parser_at_name(p, "true") || parser_at_name(p, "True"))
            return constant(p, value_boolean(true));
        if (parser_at_name(p, "false") || parser_at_name(p, "False"))
            return constant(p, value_boolean(false));
        if (parser_at_name(p, "none") || parser_at_name(p, "None"))
            return constant(p, value_none());
        struct node *name = node_new(p, NODE_NAME);
        name->text = expect_name(p);
        return name;
    case TOKEN_STRING:
        return parse_strings(p);
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        return constant(p, p->token->value);
    default:
        break;
    }
    if (parser_accept(p, "(")) {
        struct node *inner = parse_tuple_in(p, true, true);
        parser_expect(p, ")");
        return inner;
    }
    if (parser_accept(p, "["))
        return parse_list(p);
    if (parser_accept(p, "{"))
        return parse_dict(p);
    parser_fail_expected(p, "an expression");
}

/* ---- suffixes of primary expressions ---------------------------------------------------------------------------- */

/* Parses the arguments after "(" into a list of nodes. */
static struct node *parse_arguments(struct parser *p)
{
    struct node *first = NULL, **end = &first;
    bool keywords = false;
    while (!parser_accept(p, ")")) {
        struct node *argument;
        if (parser_at(p, "*") || parser_at(p, "**")) {
            argument = node_new(p, parser_at(p, "*") ? NODE_SPREAD : NODE_SPREAD_KEYWORDS);
            advance(p);
            argument->a = parse_expression(p);
        } else if (p->token->kind == TOKEN_NAME && p->token[1].kind == TOKEN_OPERATOR &&
                   strcmp(p->token[1].operator, "=") == 0) {
            argument = node_new(p, NODE_KEYWORD);
            argument->text = expect_name(p);
            parser_expect(p, "=");
            argument->a = parse_expression(p);
            keywords = true;
        } else {
            if (keywords)
                parser_fail_expected(p, "a named argument, because the one before it is named");
            argument = parse_expression(p);
        }
        *end = argument;
        end = &argument->next;
        if (!parser_at(p, ")"))
            parser_expect(p, ",");
    }
    return first;
}

/* Parses an item or a slice of a, after "[". */
static struct node *parse_index(struct parser *p, struct node *a)
{
    struct node *node = node_new(p, NODE_ITEM);
    node->a = a;
    if (!parser_at(p, ":"))
        node->b = parse_expression(p);
    if (parser_accept(p, ":")) {
        node->kind = NODE_SLICE;
        if (!parser_at(p, ":") && !parser_at(p, "]"))
            node->c = parse_expression(p);
        if (parser_accept(p, ":") && !parser_at(p, "]"))
            node->d = parse_expression(p);
    }
    parser_expect(p, "]");
    return node;
}

static struct node *parse_postfix(struct parser *p, struct node *node)
{
    for (;;) {
        struct node *outer;
        if (parser_at(p, ".")) {
            outer = node_new(p, NODE_ATTRIBUTE);
            advance(p);
            outer->a = node;
            if (p->token->kind == TOKEN_INTEGER) {
                outer->kind = NODE_ITEM;
                outer->b = constant(p, p->token->value);
            } else {
                outer->text = expect_name(p);
            }
        } else if (parser_accept(p, "[")) {
            outer = parse_index(p, node);
        } else if (parser_at(p, "(")) {
            outer = node_new(p, NODE_CALL);
            advance(p);
            outer->a = node;
            outer->first = parse_arguments(p);
        } else {
            return node;
        }
        node = outer;
    }
}

struct node *parse_filter_name(struct parser *p, struct node *input)
{
    struct node *filter = node_new(p, NODE_FILTER);
    filter->a = input;
    filter->text = expect_name(p);
    filter->builtin = jinja_find_filter(filter->text);
    if (parser_accept(p, "("))
        filter->first = parse_arguments(p);
    return filter;
}

struct node *parse_filters(struct parser *p, struct node *node)
{
    while (parser_accept(p, "|"))
        node = parse_filter_name(p, node);
    return node;
}

static bool at_test_argument(const struct parser *p)
{
    switch (p->token->kind) {
    case TOKEN_NAME:
        return !parser_at_name(p, "else") && !parser_at_name(p, "or") && !parser_at_name(p, "and");
    case TOKEN_STRING:
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        return true;
    default:
        return parser_at(p, "[") || parser_at(p, "{");
    }
}

static struct node *parse_test(struct parser *p, struct node *input)
{
    struct node *test = node_new(p, NODE_TEST);
    bool negated = parser_accept_name(p, "not");
    test->a = input;
    test->text = expect_name(p);
    test->builtin = jinja_find_test(test->text);
    if (parser_accept(p, "(")) {
        test->first = parse_arguments(p);
    } else if (at_test_argument(p)) {
        if (parser_at_name(p, "is"))
            jinja_fail(p->w, "tests with 'is' cannot be chained");
        test->first = parse_postfix(p, parse_primary(p));
    }
    if (!negated)
        return test;
    struct node *not = node_new(p, NODE_NOT);
    not ->a = test;
    return not ;
}

static struct node *parse_unary(struct parser *p, bool with_filters)
{
    struct node *node;
    parser_enter(p);
    if (parser_at(p, "-") || parser_at(p, "+")) {
        node = node_new(p, parser_at(p, "-") ? NODE_NEGATIVE : NODE_POSITIVE);
        advance(p);
        node->a = parse_unary(p, false);
    } else {
        node = parse_primary(p);
    }
    node = parse_postfix(p, node);
    while (with_filters) {
        if (parser_at(p, "|"))
            node = parse_filters(p, node);
        else if (parser_accept_name(p, "is"))
            node = parse_test(p, node);
        else if (parser_at(p, "("))
            node = parse_postfix(p, node);
        else
            break;
    }
    p->depth--;
    return node;
}

/* ---- operators ----------------------------------------------------------------------------------------------------
 */

static struct node *binary(struct parser *p, enum operation operation, struct node *a)
{
    struct node *node = node_new(p, NODE_BINARY);
    node->operation = operation;
    node->a = a;
    advance(p);
    return node;
}

static struct node *parse_power(struct parser *p)
{
    struct node *node = parse_unary(p, true);
    while (parser_at(p, "**")) {
        node = binary(p, OPERATION_POWER, node);
        node->b = parse_unary(p, true);
    }
    return node;
}

static struct node *parse_product(struct parser *p)
{
    static const struct {
        const char *text;
        enum operation operation;
    } operators[] = {
        {"*", OPERATION_MULTIPLY}, {"/", OPERATION_DIVIDE}, {"//", OPERATION_FLOOR_DIVIDE}, {"%", OPERATION_MODULO}};
    struct node *node = parse_power(p);
    for (size_t i = 0; i < COUNT_OF(operators); i++) {
        if (!parser_at(p, operators[i].text))
            continue;
        node = binary(p, operators[i].operation, node);
        node->b = parse_power(p);
        i = (size_t)-1; /* start over with the first operator */
    }
    return node;
}

static struct node *parse_concat(struct parser *p)
{
    struct node *first = parse_product(p);
    if (!parser_at(p, "~"))
        return first;
    struct node *concat = node_new(p, NODE_CONCAT);
    concat->first = first;
    struct node **end = &first->next;
    while (parser_accept(p, "~")) {
        *end = parse_product(p);
        end = &(*end)->next;
    }
    return concat;
}

static struct node *parse_sum(struct parser *p)
{
    struct node *node = parse_concat(p);
    while (parser_at(p, "+") || parser_at(p, "-")) {
        node = binary(p, parser_at(p, "+") ? OPERATION_ADD : OPERATION_SUBTRACT, node);
        node->b = parse_concat(p);
    }
    return node;
}

static bool accept_comparison(struct parser *p, enum operation *operation)
{
    static const struct {
        const char *text;
        enum operation operation;
    } operators[] = {{"==", OPERATION_EQUAL},      {"!=", OPERATION_NOT_EQUAL}, {"<", OPERATION_LESS},
                     {"<=", OPERATION_LESS_EQUAL}, {">", OPERATION_GREATER},    {">=", OPERATION_GREATER_EQUAL}};
    for (size_t i = 0; i < COUNT_OF(operators); i++) {
        if (parser_accept(p, operators[i].text)) {
            *operation = operators[i].operation;
            return true;
        }
    }
    if (parser_accept_name(p, "in")) {
        *operation = OPERATION_IN;
        return true;
    }
    if (parser_at_name(p, "not") && p->token[1].kind == TOKEN_NAME && string_is(p->token[1].value.string, "in")) {
        advance(p);
        advance(p);
        *operation = OPERATION_NOT_IN;
        return true;
    }
    return false;
}

static struct node *parse_comparison(struct parser *p)
{
    struct node *first = parse_sum(p);
    struct node *compare = NULL, **end = NULL;
    enum operation operation;
    while (accept_comparison(p, &operation)) {
        if (!compare) {
            compare = node_new(p, NODE_COMPARE);
            compare->a = first;
            end = &compare->first;
        }
        struct node *operand = node_new(p, NODE_OPERAND);
        operand->operation = operation;
        operand->a = parse_sum(p);
        *end = operand;
        end = &operand->next;
    }
    return compare ? compare : first;
}

static struct node *parse_not(struct parser *p)
{
    if (!parser_at_name(p, "not"))
        return parse_comparison(p);
    struct node *node = node_new(p, NODE_NOT);
    advance(p);
    parser_enter(p);
    node->a = parse_not(p);
    p->depth--;
    return node;
}

static struct node *parse_and(struct parser *p)
{
    struct node *node = parse_not(p);
    while (parser_at_name(p, "and")) {
        struct node *both = node_new(p, NODE_AND);
        advance(p);
        both->a = node;
        both->b = parse_not(p);
        node = both;
    }
    return node;
}

static struct node *parse_or(struct parser *p)
{
    struct node *node = parse_and(p);
    while (parser_at_name(p, "or")) {
        struct node *either = node_new(p, NODE_OR);
        advance(p);
        either->a = node;
        either->b = parse_and(p);
        node = either;
    }
    return node;
}

static struct node *parse_choice(struct parser *p, bool with_condition)
{
    parser_enter(p);
    struct node *node = parse_or(p);
    while (with_condition && parser_at_name(p, "if")) {
        struct node *choice = node_new(p, NODE_CHOICE);
        advance(p);
        choice->a = node;
        choice->b = parse_or(p);
        if (parser_accept_name(p, "else"))
            choice->c = parse_choice(p, true);
        node = choice;
    }
    p->depth--;
    return node;
}

struct node *parse_expression(struct parser *p)
{
    return parse_choice(p, true);
}
