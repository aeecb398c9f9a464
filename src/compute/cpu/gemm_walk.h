/* Passes the tokens of a tile through the panels of a group; shared by the files that multiply. The including file
 * defines MOST_TOKENS, MOST_PANELS, PANELS_FOR, and
 *   multiply_panels(kind, how, panels, count, x, tokens, blocks, row)
 * where kind, how, count and tokens are constants. */
#ifndef HYPURA_COMPUTE_GEMM_WALK_H
#define HYPURA_COMPUTE_GEMM_WALK_H

/* Prefetches the quants of the next tile's tokens, a part with each panel. They are far apart, so the processor does
 * not prefetch them itself. */
INLINE void prefetch_tokens(const struct panel_tile *next, size_t first, size_t tokens, size_t panel, size_t count)
{
    const size_t part = PANEL_COLUMNS / GROUP_PANELS;
    for (size_t t = first; t < MIN(first + tokens, next->count); t++)
        for (size_t c = align_up(panel * part, 64); c < (panel + count) * part; c += 64)
            __builtin_prefetch(next->tokens[t].quants + c);
}

/* Prefetches the destinations of sums for the next panels, because stores wait for their cache lines. */
INLINE void prefetch_outputs(const struct panel_token *x, const int tokens, size_t panel, size_t count, size_t end)
{
    for (size_t p = panel + count; p < MIN(panel + 2 * count, end); p++)
        for (int t = 0; t < tokens; t++)
            __builtin_prefetch(x[t].to + p * PANEL_ROWS, 1);
}

/* Multiplies all panels of a group by passes times a constant number of tokens, from token "first" of the tile on. */
SHAPED void multiply_tokens(const enum panel_kind kind, const int how, const struct panel_product *product,
                            size_t first, size_t passes, const int tokens)
{
    const struct panel *panels = product->panels;
    const struct panel_token *x = product->tile->tokens + first;
    size_t p = 0;
    for (; product->panel_count - p >= PANELS_FOR(tokens); p += PANELS_FOR(tokens))
        for (size_t i = 0; i < passes; i++) {
            /* Keeps the compiler from saving values common to all panels on the stack. */
            __asm__ volatile("" ::: "memory");
            prefetch_tokens(product->next, first + i * tokens, tokens, p, PANELS_FOR(tokens));
            if (product->last)
                prefetch_outputs(x + i * tokens, tokens, p, PANELS_FOR(tokens), product->panel_count);
            multiply_panels(kind, how, panels + p, PANELS_FOR(tokens), x + i * tokens, tokens, product->blocks,
                            p * PANEL_ROWS);
        }
    for (; p < product->panel_count; p++)
        for (size_t i = 0; i < passes; i++)
            multiply_panels(kind, how, panels + p, 1, x + i * tokens, tokens, product->blocks, p * PANEL_ROWS);
}

/* Makes passes of about equal size: eight tokens are 4 + 4, not 6 + 2. */
INLINE void multiply_kind(const enum panel_kind kind, const int how, const struct panel_product *product)
{
    for (size_t first = 0; first < product->tile->count;) {
        size_t left = product->tile->count - first, passes = (left + MOST_TOKENS - 1) / MOST_TOKENS;
        size_t tokens = (left + passes - 1) / passes;
        passes = left / tokens;
#define TOKENS(n)                                                                                                      \
    case n:                                                                                                            \
        multiply_tokens(kind, how, product, first, passes, n);                                                         \
        break
        switch (tokens) {
            TOKENS(1);
#if MOST_TOKENS > 2
            TOKENS(2);
#endif
#if MOST_TOKENS > 3
            TOKENS(3);
#endif
#if MOST_TOKENS > 4
            TOKENS(4);
            TOKENS(5);
#endif
        default:
            multiply_tokens(kind, how, product, first, passes, MOST_TOKENS);
            break;
        }
#undef TOKENS
        first += passes * tokens;
    }
}

#endif
