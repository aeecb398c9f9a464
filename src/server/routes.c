/* What answers to which path. */
#include "server/server_private.h"

const struct route routes[] = {
    {"GET", "/", API_OLLAMA, true, handle_root},
    {"GET", "/ui", API_OLLAMA, true, handle_page},
    {"GET", "/ui/", API_OLLAMA, true, handle_page},
    {"GET", "/metrics", API_OLLAMA, false, handle_metrics},
    {"GET", "/api/version", API_OLLAMA, false, handle_version},
    {"GET", "/api/tags", API_OLLAMA, false, handle_tags},
    {"GET", "/api/ps", API_OLLAMA, false, handle_ps},
    {"POST", "/api/show", API_OLLAMA, false, handle_show},
    {"POST", "/api/generate", API_OLLAMA, false, handle_ollama_generate},
    {"POST", "/api/chat", API_OLLAMA, false, handle_ollama_chat},
    {"POST", "/api/embed", API_OLLAMA, false, handle_embed},
    {"POST", "/api/embeddings", API_OLLAMA, false, handle_embeddings_old},
    {"POST", "/api/copy", API_OLLAMA, false, handle_copy},
    {"DELETE", "/api/delete", API_OLLAMA, false, handle_delete},
    {"POST", "/api/create", API_OLLAMA, false, handle_create},
    {"POST", "/api/pull", API_OLLAMA, false, handle_pull},
    {"POST", "/api/push", API_OLLAMA, false, handle_push},
    {"POST", "/api/hypura/memory", API_OLLAMA, false, handle_memory},
    {"GET", "/api/hypura/events", API_OLLAMA, false, handle_events},
    {"GET", "/v1/models", API_OPENAI, false, handle_openai_models},
    {"GET", "/v1/models/", API_OPENAI, false, handle_openai_model},
    {"POST", "/v1/chat/completions", API_OPENAI, false, handle_openai_chat},
    {"POST", "/v1/completions", API_OPENAI, false, handle_openai_completions},
    {"POST", "/v1/embeddings", API_OPENAI, false, handle_openai_embeddings},
    {"POST", "/v1/responses", API_OPENAI, false, handle_openai_responses},
    {"GET", "/v1/responses/", API_OPENAI, false, handle_openai_response},
    {"DELETE", "/v1/responses/", API_OPENAI, false, handle_openai_response_delete},
    {"POST", "/v1/messages", API_ANTHROPIC, false, handle_messages},
};
const size_t route_count = COUNT_OF(routes);
