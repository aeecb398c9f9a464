/* Compiles a JSON schema to GBNF. Keywords: https://json-schema.org/draft/2020-12. */
#include "grammar/schema_private.h"

#include <string.h>

/* The rules named "one..." are canonical: equal values have one text. */
static const char json_rules[] =
    "ws ::= \"\" | \" \" | \"\\n\" [ \\t]{0,20}\n"
    "hex ::= [0-9a-fA-F]\n"
    /* Surrogates come in pairs only. */
    "escape ::= \"\\\\\" ([\"\\\\/bfnrt] | \"u\" ([0-9a-ce-fA-CE-F] hex{3} | [dD] [0-7] hex{2} | "
    "[dD] [89abAB] hex{2} \"\\\\u\" [dD] [c-fC-F] hex{2}))\n"
    "char ::= [^\"\\\\\\x00-\\x1f\\x7f] | escape\n"
    "string ::= \"\\\"\" char* \"\\\"\"\n"
    "integral ::= \"0\" | [1-9] [0-9]{0,15}\n"
    "integer ::= \"-\"? integral\n"
    "number ::= \"-\"? integral (\".\" [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?\n"
    "boolean ::= \"true\" | \"false\"\n"
    "null ::= \"null\"\n"
    "member ::= string ws \":\" ws value ws\n"
    "object ::= \"{\" ws (member (\",\" ws member)*)? \"}\"\n"
    "array ::= \"[\" ws (value ws (\",\" ws value ws)*)? \"]\"\n"
    "value ::= object | array | string | number | boolean | null\n"
    "onechar ::= [^\"\\\\\\x00-\\x1f\\x7f] | \"\\\\\" ([\"\\\\bfnrt] | \"u00\" (\"0\" [0-7BEF] | \"1\" [0-9A-F]))\n"
    "onestring ::= \"\\\"\" onechar* \"\\\"\"\n"
    "oneinteger ::= \"0\" | \"-\"? [1-9] [0-9]{0,14}\n"
    "onenumber ::= oneinteger | \"-\"? (\"0\" | [1-9] [0-9]{0,8}) \".\" [0-9]{0,5} [1-9]\n"
    "onearray ::= \"[\" ws (onevalue ws (\",\" ws onevalue ws)*)? \"]\"\n"
    "oneobject ::= \"{\" ws \"}\"\n"
    "onevalue ::= oneobject | onearray | onestring | onenumber | boolean | null\n";

static bool write_schema(struct schema_writer *w, const json_t *schema)
{
    struct buffer root = {0};
    struct goal *goal;
    struct literal whole = {.schema = schema};
    buffer_append_string(w->out, json_rules);
    bool none = true, fine = schema_index(w);
    /* If no value of the implied types is left, the second round considers every type. */
    for (int exact = 0; exact < 2 && fine && none; exact++) {
        w->exact = exact;
        fine = schema_goal_of(w, whole, NULL, false, &goal) && schema_goal_is_empty(w, goal, &none);
    }
    if (fine && none) {
        w->at = (struct origin){0};
        fine = schema_refuse(w, "%s satisfies the JSON schema", "no value");
    }
    fine = fine && schema_write_goal(w, goal, &root) && schema_write_waiting(w);
    buffer_append_string(w->out, "root ::= ");
    buffer_append(w->out, root.data ? root.data : "", root.size);
    buffer_append_string(w->out, "\n");
    if (fine && (w->out->failed || root.failed))
        fine = schema_no_memory(w);
    buffer_free(&root);
    return fine;
}

static hypura_status write_text(struct buffer *text, const json_t *schema, struct origin *blamed, hypura_error *error)
{
    struct schema_writer *w;
    hypura_error reason = {0};
    hypura_status status = ALLOCATE(&w, 1, "JSON schema", error);
    if (status != HYPURA_OK)
        return status;
    w->root = schema;
    w->out = text;
    w->error = &reason;
    w->owned = json_array();
    bool fine = w->owned ? write_schema(w, schema) : schema_no_memory(w);
    if (!fine)
        status = error_set(error, reason.status, "%s", reason.message);
    *blamed = w->at;
    schema_free_memory(w);
    schema_forget_index(w);
    json_decref(w->owned);
    memory_free(w);
    return status;
}

hypura_status grammar_schema_text(struct buffer *text, const json_t *schema, hypura_error *error)
{
    struct origin blamed;
    return write_text(text, schema, &blamed, error);
}

hypura_status grammar_from_schema(struct grammar **out, const json_t *schema, hypura_error *error)
{
    struct buffer text = {0};
    hypura_status status = grammar_schema_text(&text, schema, error);
    if (status == HYPURA_OK)
        status = grammar_parse_schema(out, text.data, text.size, error);
    buffer_free(&text);
    return status;
}

/* ---- relaxing -----------------------------------------------------------------------------------------------------
 */

#define MAX_LEFT_OUT 60

static bool is_part_of(const json_t *whole, const json_t *part)
{
    const char *key;
    json_t *child;
    size_t i;
    if (whole == part)
        return true;
    json_array_foreach(whole, i, child) if (is_part_of(child, part)) return true;
    json_object_foreach((json_t *)whole, key, child) if (is_part_of(child, part)) return true;
    return false;
}

static hypura_status try_schema(const json_t *schema, struct origin *blamed, hypura_error *error)
{
    struct buffer text = {0};
    struct grammar *grammar = NULL;
    hypura_status status = write_text(&text, schema, blamed, error);
    if (status == HYPURA_OK) {
        *blamed = (struct origin){0};
        status = grammar_parse_schema(&grammar, text.data, text.size, error);
    }
    grammar_free(grammar);
    buffer_free(&text);
    return status;
}

hypura_status grammar_relax_schema(json_t *schema, struct buffer *left_out, hypura_error *error)
{
    for (int i = 0;; i++) {
        struct origin blamed = {0};
        hypura_error reason = {0};
        hypura_status status = try_schema(schema, &blamed, &reason);
        if (status == HYPURA_OK)
            return HYPURA_OK;
        if (status == HYPURA_ERROR_MEMORY)
            return error_set(error, status, "%s", reason.message);
        if (i < MAX_LEFT_OUT && blamed.key && is_part_of(schema, blamed.schema)) {
            /* The key comes from the client: log only its leading letters. */
            int length = (int)strspn(blamed.key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ$");
            buffer_append_format(left_out, "%.*s: %s\n", length, blamed.key, reason.message);
            json_object_del((json_t *)blamed.schema, blamed.key);
        } else {
            buffer_append_format(left_out, "all of it: %s\n", reason.message);
            if (json_object_clear(schema) != 0 || json_object_set_new(schema, "type", json_string("object")) != 0)
                return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the JSON schema");
        }
    }
}

hypura_status grammar_json(struct grammar **out, hypura_error *error)
{
    struct buffer text = {0};
    buffer_append_string(&text, json_rules);
    buffer_append_string(&text, "root ::= object\n");
    hypura_status status = text.failed ? error_set(error, HYPURA_ERROR_MEMORY, "no memory for the grammar")
                                       : grammar_parse(out, text.data, text.size, error);
    buffer_free(&text);
    return status;
}
