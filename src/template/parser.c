/* Parses the statements of a template. */
#include "template/template_private.h"

#include <string.h>

static struct node *parse_body(struct parser *p, const char *const *ends);

static void next_token(struct parser *p)
{
    if (p->token->kind != TOKEN_END)
        p->token++;
    p->w->line = p->token->line;
}

static void expect_block_end(struct parser *p)
{
    if (p->token->kind != TOKEN_BLOCK_END)
        parser_fail_expected(p, "'%}'");
    next_token(p);
}

/* Parses the rest of a block after its opening tag: the body, and the name of the closing tag. */
static struct node *parse_block(struct parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    expect_block_end(p);
    struct node *body = parse_body(p, ends);
    next_token(p);
    return body;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const body_ends[] = {"endfor", "else", NULL};
    struct node *loop = node_new(p, NODE_FOR);
    loop->a = parse_target(p, false);
    if (!parser_accept_name(p, "in"))
        parser_fail_expected(p, "'in'");
    loop->b = parse_tuple(p, false);
    if (parser_accept_name(p, "if"))
        loop->c = parse_expression(p);
    loop->recursive = parser_accept_name(p, "recursive");
    expect_block_end(p);
    loop->first = parse_body(p, body_ends);
    if (parser_accept_name(p, "else"))
        loop->second = parse_block(p, "endfor");
    else
        next_token(p);
    return loop;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct node *first = NULL, **end = &first;
    for (;;) {
        struct node *branch = node_new(p, NODE_IF);
        branch->elif = first != NULL;
        *end = branch;
        end = &branch->second;
        branch->a = parse_tuple(p, false);
        expect_block_end(p);
        branch->first = parse_body(p, ends);
        if (parser_accept_name(p, "elif"))
            continue;
        if (parser_accept_name(p, "else"))
            branch->second = parse_block(p, "endif");
        else
            next_token(p);
        return first;
    }
}

static struct node *parse_set(struct parser *p)
{
    struct node *set = node_new(p, NODE_SET);
    set->a = parse_target(p, true);
    if (parser_accept(p, "=")) {
        set->b = parse_tuple(p, true);
        return set;
    }
    set->kind = NODE_SET_BLOCK;
    set->b = parse_filters(p, node_new(p, NODE_CAPTURED));
    set->first = parse_block(p, "endset");
    return set;
}

/* Parses the parameters of a macro, after "(". */
static struct node *parse_parameters(struct parser *p)
{
    struct node *first = NULL, **end = &first;
    bool defaults = false;
    while (!parser_accept(p, ")")) {
        struct node *parameter = node_new(p, NODE_KEYWORD);
        if (p->token->kind != TOKEN_NAME)
            parser_fail_expected(p, "the name of a parameter");
        parameter->text = p->token->value.string;
        next_token(p);
        if (parser_accept(p, "=")) {
            parameter->a = parse_expression(p);
            defaults = true;
        } else if (defaults) {
            parser_fail_expected(p, "a default for this parameter, because an earlier one has a default");
        }
        *end = parameter;
        end = &parameter->next;
        if (!parser_at(p, ")"))
            parser_expect(p, ",");
    }
    return first;
}

static struct node *parse_macro(struct parser *p)
{
    struct node *macro = node_new(p, NODE_MACRO);
    if (p->token->kind != TOKEN_NAME)
        parser_fail_expected(p, "the name of a macro");
    macro->text = p->token->value.string;
    next_token(p);
    parser_expect(p, "(");
    macro->second = parse_parameters(p);
    const struct token *begin = p->token;
    macro->first = parse_block(p, "endmacro");
    for (const struct token *token = begin; token < p->token; token++) {
        if (token->kind != TOKEN_NAME)
            continue;
        macro->any_positional |= string_is(token->value.string, "varargs");
        macro->any_named |= string_is(token->value.string, "kwargs");
    }
    return macro;
}

static struct node *parse_call(struct parser *p)
{
    struct node *call = node_new(p, NODE_CALL_BLOCK);
    call->b = node_new(p, NODE_MACRO);
    call->b->text = value_from_text(p->w, "caller").string;
    if (parser_accept(p, "("))
        call->b->second = parse_parameters(p);
    call->a = parse_expression(p);
    if (call->a->kind != NODE_CALL)
        parser_fail_expected(p, "a call of a macro before this");
    call->b->first = parse_block(p, "endcall");
    return call;
}

static struct node *parse_with(struct parser *p)
{
    struct node *with = node_new(p, NODE_WITH);
    struct node **end = &with->second;
    while (p->token->kind != TOKEN_BLOCK_END) {
        struct node *set = node_new(p, NODE_SET);
        set->a = parse_target(p, false);
        parser_expect(p, "=");
        set->b = parse_expression(p);
        *end = set;
        end = &set->next;
        if (p->token->kind != TOKEN_BLOCK_END)
            parser_expect(p, ",");
    }
    with->first = parse_block(p, "endwith");
    return with;
}

static struct node *parse_statement(struct parser *p)
{
    if (parser_accept_name(p, "for"))
        return parse_for(p);
    if (parser_accept_name(p, "if"))
        return parse_if(p);
    if (parser_accept_name(p, "set"))
        return parse_set(p);
    if (parser_accept_name(p, "macro"))
        return parse_macro(p);
    if (parser_accept_name(p, "call"))
        return parse_call(p);
    if (parser_accept_name(p, "with"))
        return parse_with(p);
    struct node *node = node_new(p, NODE_SCOPE);
    if (parser_accept_name(p, "filter")) {
        node->kind = NODE_FILTER_BLOCK;
        node->b = parse_filters(p, parse_filter_name(p, node_new(p, NODE_CAPTURED)));
        node->first = parse_block(p, "endfilter");
    } else if (parser_accept_name(p, "generation")) {
        node->first = parse_block(p, "endgeneration");
    } else if (parser_accept_name(p, "do")) {
        node->kind = NODE_DO;
        node->a = parse_tuple(p, true);
    } else if (parser_accept_name(p, "break")) {
        node->kind = NODE_BREAK;
    } else if (parser_accept_name(p, "continue")) {
        node->kind = NODE_CONTINUE;
    } else if (p->token->kind == TOKEN_NAME) {
        const struct string *name = p->token->value.string;
        jinja_fail(p->w, "unknown tag '%.*s'", (int)MIN(name->size, (size_t)60), name->bytes);
    } else {
        parser_fail_expected(p, "the name of a tag");
    }
    return node;
}

static bool at_any(const struct parser *p, const char *const *names)
{
    for (; names && *names; names++)
        if (parser_at_name(p, *names))
            return true;
    return false;
}

/* Parses statements up to a tag with one of the names in ends, which becomes the current token. ends NULL: up to the
 * end of the template. */
static struct node *parse_body(struct parser *p, const char *const *ends)
{
    struct node *first = NULL, **end = &first;
    parser_enter(p);
    while (p->token->kind != TOKEN_END) {
        struct node *node;
        if (p->token->kind == TOKEN_TEXT) {
            node = node_new(p, NODE_TEXT);
            node->constant = p->token->value;
            next_token(p);
        } else if (p->token->kind == TOKEN_OUTPUT_BEGIN) {
            next_token(p);
            node = node_new(p, NODE_OUTPUT);
            node->a = parse_tuple(p, true);
            if (p->token->kind != TOKEN_OUTPUT_END)
                parser_fail_expected(p, "'}}'");
            next_token(p);
        } else {
            next_token(p);
            if (at_any(p, ends)) {
                p->depth--;
                return first;
            }
            node = parse_statement(p);
            expect_block_end(p);
        }
        *end = node;
        end = &node->next;
    }
    if (ends)
        jinja_fail(p->w, "the template ends inside a block: expected {%% %s %%}", ends[0]);
    p->depth--;
    return first;
}

struct node *jinja_parse(struct workspace *w, const struct token *tokens)
{
    struct parser parser = {.w = w, .token = tokens};
    return parse_body(&parser, NULL);
}
