/* What answers to which path. */
#include "server/server_private.h"

const struct route routes[] = {
    {"GET", "/", API_OLLAMA, true, handle_root},
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
    {"POST", "/api/push", API_OLLAMA, false, handle_push},
};
const size_t route_count = COUNT_OF(routes);
