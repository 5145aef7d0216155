/* tokenizer_bpe.c - byte pair encoding of one word (Sennrich et al. 2016, section 3.2).
 *
 * The word begins as one symbol per character. Again and again the neighbouring pair with the
 * lowest rank in the list of merges, of several the leftmost, becomes one symbol. A heap holds the
 * candidates and a linked list the symbols, so n characters take O(n log n) steps whatever they
 * are. A candidate whose symbols have changed meanwhile is recognised by its rank and thrown away.
 */
#include "tokenizer_inner.h"

/* ---- the heap of candidates: smallest rank first, then leftmost ----------------------------- */

static int heap_push(Encoder *n, uint64_t key)
{
    if (n->n_heap == n->cap_heap) {
        size_t cap, bytes;
        if (size_mul(n->cap_heap ? n->cap_heap : 64, 2, &cap) ||
            size_mul(cap, sizeof(*n->heap), &bytes))
            return err_set(n->e, ERR_MEMORY, "tokenizer: text too long");
        uint64_t *heap = mem_realloc(n->heap, bytes, n->e);
        if (!heap) return -1;
        n->heap = heap;
        n->cap_heap = cap;
    }
    size_t i = n->n_heap++;
    while (i && n->heap[(i - 1) / 2] > key) {
        n->heap[i] = n->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    n->heap[i] = key;
    return 0;
}

static uint64_t heap_pop(Encoder *n)
{
    uint64_t top = n->heap[0], last = n->heap[--n->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < n->n_heap; i = child) {
        if (child + 1 < n->n_heap && n->heap[child + 1] < n->heap[child]) child++;
        if (n->heap[child] >= last) break;
        n->heap[i] = n->heap[child];
    }
    n->heap[i] = last;
    return top;
}

/* ---- symbols ------------------------------------------------------------------------------- */

static int symbol_add(Encoder *n, int32_t id)
{
    if (n->n_symbols == n->cap_symbols) {
        size_t cap, bytes;
        if (size_mul(n->cap_symbols ? n->cap_symbols : 64, 2, &cap) ||
            size_mul(cap, sizeof(*n->symbols), &bytes))
            return err_set(n->e, ERR_MEMORY, "tokenizer: text too long");
        Symbol *symbols = mem_realloc(n->symbols, bytes, n->e);
        if (!symbols) return -1;
        n->symbols = symbols;
        n->cap_symbols = cap;
    }
    uint32_t i = (uint32_t)n->n_symbols++;
    n->symbols[i].previous = i ? i - 1 : BPE_END;
    n->symbols[i].next = BPE_END;
    n->symbols[i].id = id;
    if (i) n->symbols[i - 1].next = i;
    return 0;
}

/* All bytes of a character as "<0xNN>" tokens; 0 without any effect where one of them is missing,
 * -1 on error. */
static int symbols_add_bytes(Encoder *n, const char *text, size_t len)
{
    if (!n->t->byte_fallback) return 0;
    for (size_t i = 0; i < len; i++)
        if (n->t->byte_ids[(unsigned char)text[i]] < 0) return 0;
    for (size_t i = 0; i < len; i++)
        if (symbol_add(n, n->t->byte_ids[(unsigned char)text[i]])) return -1;
    return 1;
}

/* One symbol per character. Unknown characters become bytes, else the unknown token (a run of them
 * just one with fuse_unk). As in the library a pending unknown token is written when the next known
 * character comes, after bytes that stand between. */
static int symbols_fill(Encoder *n, const char *text, size_t len)
{
    const Tokenizer *t = n->t;
    int pending = 0;
    n->n_symbols = 0;
    for (size_t at = 0, end; at < len; at = end) {
        end = at;
        utf8_next(text, &end);
        int32_t id = model_id(t, text + at, end - at);
        if (id >= 0) {
            if (pending && symbol_add(n, t->unk)) return -1;
            pending = 0;
            if (symbol_add(n, id)) return -1;
            continue;
        }
        int bytes = symbols_add_bytes(n, text + at, end - at);
        if (bytes < 0) return -1;
        if (bytes || t->unk < 0) continue;
        if (pending && !t->fuse_unk && symbol_add(n, t->unk)) return -1;
        pending = 1;
    }
    return pending ? symbol_add(n, t->unk) : 0;
}

/* ---- merging ------------------------------------------------------------------------------- */

static const Merge *merge_find(const Tokenizer *t, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    const Merge *m = &t->merges[merge_slot(t, pair)];
    return m->pair == pair ? m : NULL;
}

/* The pair that begins at symbol i becomes a candidate if there is a merge for it. */
static int candidate_add(Encoder *n, uint32_t i)
{
    const Symbol *s = n->symbols;
    if (i == BPE_END || s[i].next == BPE_END) return 0;
    const Merge *m = merge_find(n->t, s[i].id, s[s[i].next].id);
    return m ? heap_push(n, (uint64_t)m->rank << 32 | i) : 0;
}

static int symbols_merge(Encoder *n)
{
    Symbol *s = n->symbols;
    n->n_heap = 0;
    for (size_t i = 0; i < n->n_symbols; i++)
        if (candidate_add(n, (uint32_t)i)) return -1;
    while (n->n_heap) {
        uint64_t key = heap_pop(n);
        uint32_t i = (uint32_t)key, right = s[i].next;
        if (s[i].id == BPE_GONE || right == BPE_END) continue;
        const Merge *m = merge_find(n->t, s[i].id, s[right].id);
        if (!m || m->rank != key >> 32) continue; /* these two have met others since */
        s[i].id = m->id;
        s[i].next = s[right].next;
        s[right].id = BPE_GONE;
        if (s[i].next != BPE_END) s[s[i].next].previous = i;
        if (candidate_add(n, s[i].previous) || candidate_add(n, i)) return -1;
    }
    return 0;
}

int bpe_encode(Encoder *n, const char *text, size_t len)
{
    if (n->t->ignore_merges) {
        int32_t id = model_id(n->t, text, len);
        if (id >= 0) return ids_add(n->out, id, n->e);
    }
    if (symbols_fill(n, text, len) || symbols_merge(n)) return -1;
    for (size_t i = 0; i < n->n_symbols; i++)
        if (n->symbols[i].id != BPE_GONE && ids_add(n->out, n->symbols[i].id, n->e)) return -1;
    return 0;
}

void bpe_free(Encoder *n)
{
    mem_free(n->symbols);
    mem_free(n->heap);
    n->symbols = NULL;
    n->heap = NULL;
}
