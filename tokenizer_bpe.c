/* tokenizer_bpe.c - encodes one word by byte pair encoding (Sennrich et al. 2016, section 3.2).
 *
 * The word begins as one symbol per character. Again and again the neighbouring pair with the
 * lowest rank in the list of merges, of several the leftmost, becomes one symbol. A queue holds the
 * candidates and a linked list the symbols. A candidate whose symbols have changed in the meantime
 * is recognised by its rank and dropped.
 *
 * Two things keep long words fast. Where no merge can involve the last character on the left and
 * the first one on the right, the word falls into pieces that are processed one by one
 * (SentencePiece models see a whole text as one word). And the queue keeps candidates of one rank
 * in ascending runs, so that a megabyte of one letter is a few long runs and not a heap of a
 * million entries.
 */
#include "tokenizer_inner.h"

#include <string.h>

#define NONE UINT32_MAX

/* ---- ids ----------------------------------------------------------------------------------- */

int ids_add(Ids *v, int32_t id, Err *e)
{
    if (v->count == v->cap) {
        size_t cap, bytes;
        if (size_mul(v->cap ? v->cap : 32, 2, &cap) || size_mul(cap, sizeof(*v->ids), &bytes))
            return err_set(e, ERR_MEMORY, "tokenizer: too many ids");
        int32_t *ids = mem_realloc(v->ids, bytes, e);
        if (!ids) return -1;
        v->ids = ids;
        v->cap = cap;
    }
    v->ids[v->count++] = id;
    return 0;
}

void ids_free(Ids *v)
{
    mem_free(v->ids);
    *v = (Ids){0};
}

/* ---- tables -------------------------------------------------------------------------------- */

size_t piece_slot(const Tokenizer *t, const char *text, size_t len)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)text[i]) * 1099511628211u;
    for (size_t i = (size_t)(h ^ h >> 32) & t->by_text_mask;; i = (i + 1) & t->by_text_mask) {
        if (t->by_text[i] < 0) return i;
        const Piece *p = &t->pieces[t->by_text[i]];
        if (p->len == len && !memcmp(p->text, text, len)) return i;
    }
}

size_t merge_slot(const Tokenizer *t, uint64_t pair)
{
    size_t i = (size_t)((pair ^ pair >> 29) * 0x9e3779b97f4a7c15u >> 32) & t->merge_mask;
    while (t->merges[i].pair != MERGE_EMPTY && t->merges[i].pair != pair)
        i = (i + 1) & t->merge_mask;
    return i;
}

int32_t model_id(const Tokenizer *t, const char *text, size_t len)
{
    int32_t id = t->by_text[piece_slot(t, text, len)];
    return id >= 0 && t->pieces[id].model ? id : -1;
}

/* Value of a hexadecimal digit, -1 for any other byte. */
static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Printable Latin-1 stands for itself, the other 68 bytes, in order, for U+0100 and on (GPT-2,
 * bytes_to_unicode). */
void bytes_as_letters(unsigned short out[256])
{
    unsigned short next = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        int printable = (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad);
        out[b] = printable ? (unsigned short)b : next++;
    }
}

int piece_byte(const char *text, size_t len)
{
    if (len != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* ---- growing arrays ----------------------------------------------------------------------- */

/* Makes room for one more item: returns the array, moved to twice its size if it was full, or
 * NULL. */
static void *room(void *array, size_t count, size_t *cap, size_t item, Err *e)
{
    size_t wanted, bytes;
    if (count < *cap) return array;
    if (count >= NONE || size_mul(*cap ? *cap : 32, 2, &wanted) || size_mul(wanted, item, &bytes)) {
        err_set(e, ERR_MEMORY, "tokenizer: text too long");
        return NULL;
    }
    void *grown = mem_realloc(array, bytes, e);
    if (grown) *cap = wanted;
    return grown;
}

/* ---- the queue of candidates: smallest rank first, then leftmost ---------------------------- */

/* The heap orders runs by their first candidates. */
static int heap_push(Encoder *n, uint64_t key, uint32_t run)
{
    HeapItem *heap = room(n->heap, n->n_heap, &n->cap_heap, sizeof(*heap), n->e);
    if (!heap) return -1;
    n->heap = heap;
    size_t i = n->n_heap++;
    for (; i && heap[(i - 1) / 2].key > key; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = (HeapItem){key, run};
    return 0;
}

/* Replaces the first item. */
static void heap_replace_first(Encoder *n, HeapItem item)
{
    HeapItem *heap = n->heap;
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < n->n_heap; i = child) {
        if (child + 1 < n->n_heap && heap[child + 1].key < heap[child].key) child++;
        if (heap[child].key >= item.key) break;
        heap[i] = heap[child];
    }
    heap[i] = item;
}

/* Returns a list node for a position, a free one if there is any; NONE on error. */
static uint32_t candidate_node(Encoder *n, uint32_t position)
{
    uint32_t i = n->free_candidate;
    if (i != NONE) {
        n->free_candidate = n->candidates[i].next;
    } else {
        Candidate *c = room(n->candidates, n->n_candidates, &n->cap_candidates, sizeof(*c), n->e);
        if (!c) return NONE;
        n->candidates = c;
        i = (uint32_t)n->n_candidates++;
    }
    n->candidates[i] = (Candidate){position, NONE};
    return i;
}

static uint32_t run_node(Encoder *n)
{
    uint32_t i = n->free_run;
    if (i != NONE) {
        n->free_run = n->runs[i].last;
        return i;
    }
    Run *runs = room(n->runs, n->n_runs, &n->cap_runs, sizeof(*runs), n->e);
    if (!runs) return NONE;
    n->runs = runs;
    return (uint32_t)n->n_runs++;
}

/* Adds a candidate: to the run that got the last one of this rank if it keeps that run ascending,
 * else to a run of its own. */
static int queue_push(Encoder *n, uint32_t rank, uint32_t position)
{
    uint32_t *open = &n->open_runs[rank % OPEN_RUNS];
    Run *r = *open < n->n_runs ? &n->runs[*open] : NULL;
    int fits = r && r->first != NONE && r->rank == rank;
    if (fits && n->candidates[r->last].position == position) return 0; /* is already a candidate */
    fits = fits && n->candidates[r->last].position < position;
    uint32_t node = candidate_node(n, position);
    if (node == NONE) return -1;
    if (fits) {
        n->candidates[r->last].next = node;
        r->last = node;
        return 0;
    }
    uint32_t run = run_node(n);
    if (run == NONE) return -1;
    n->runs[run] = (Run){rank, node, node};
    *open = run;
    return heap_push(n, (uint64_t)rank << 32 | position, run);
}

/* Takes the first candidate out of a queue that is not empty: rank << 32 | position. */
static uint64_t queue_pop(Encoder *n)
{
    HeapItem top = n->heap[0];
    Run *r = &n->runs[top.run];
    uint32_t node = r->first;
    r->first = n->candidates[node].next;
    n->candidates[node].next = n->free_candidate;
    n->free_candidate = node;
    if (r->first != NONE) {
        uint64_t key = (uint64_t)r->rank << 32 | n->candidates[r->first].position;
        heap_replace_first(n, (HeapItem){key, top.run});
        return top.key;
    }
    r->last = n->free_run;
    n->free_run = top.run;
    n->n_heap--;
    if (n->n_heap) heap_replace_first(n, n->heap[n->n_heap]);
    return top.key;
}

/* ---- where a word may be cut ---------------------------------------------------------------- */

/* A slot of the table of joins for two neighbouring symbols, or the free one they would take. */
static size_t join_slot(const uint64_t *joins, size_t mask, uint64_t pair)
{
    size_t i = (size_t)((pair ^ pair >> 29) * 0x9e3779b97f4a7c15u >> 32) & mask;
    while (joins[i] != MERGE_EMPTY && joins[i] != pair) i = (i + 1) & mask;
    return i;
}

static uint64_t *joins_table(size_t slots, Err *e)
{
    size_t bytes;
    uint64_t *joins = size_mul(slots, sizeof(*joins), &bytes) ? NULL : mem_alloc(bytes, e);
    for (size_t i = 0; joins && i < slots; i++) joins[i] = MERGE_EMPTY;
    return joins;
}

/* Notes that some merge crosses the boundary between symbols a and b. */
static int join_add(Tokenizer *t, int32_t a, int32_t b, Err *e)
{
    if (a < 0 || b < 0) return 0;
    if (!t->joins || 2 * t->n_joins >= t->join_mask) {
        size_t slots = t->joins ? 2 * (t->join_mask + 1) : 1024;
        uint64_t *grown = joins_table(slots, e);
        if (!grown) return -1;
        for (size_t i = 0; t->joins && i <= t->join_mask; i++)
            if (t->joins[i] != MERGE_EMPTY)
                grown[join_slot(grown, slots - 1, t->joins[i])] = t->joins[i];
        mem_free(t->joins);
        t->joins = grown;
        t->join_mask = slots - 1;
    }
    uint64_t pair = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    size_t slot = join_slot(t->joins, t->join_mask, pair);
    t->n_joins += t->joins[slot] == MERGE_EMPTY;
    t->joins[slot] = pair;
    return 0;
}

/* Finds the symbols that a piece can begin with (at_end: end with): the token of its outermost
 * character; if it is spelled so, a byte token; the unknown token. -1 if there is none. */
enum { EDGES = 3 };
static void piece_edges(const Tokenizer *t, int32_t id, int at_end, int32_t edge[EDGES])
{
    const Piece *p = &t->pieces[id], *unk = t->unk >= 0 ? &t->pieces[t->unk] : NULL;
    const size_t byte_len = strlen("<0x00>");
    size_t start = 0, end = 0;
    edge[0] = edge[1] = edge[2] = -1;
    if (!p->len) return;
    if (at_end) {
        end = p->len;
        utf8_before(p->text, end, &start);
    } else {
        utf8_next(p->text, &end);
    }
    edge[0] = model_id(t, p->text + start, end - start);
    if (p->len >= byte_len) {
        int byte = piece_byte(at_end ? p->text + p->len - byte_len : p->text, byte_len);
        if (byte >= 0) edge[1] = t->byte_ids[byte];
    }
    if (unk && p->len >= unk->len &&
        !memcmp(at_end ? p->text + p->len - unk->len : p->text, unk->text, unk->len))
        edge[2] = t->unk;
}

int bpe_prepare(Tokenizer *t, Err *e)
{
    for (size_t i = 0; i <= t->merge_mask; i++) {
        int32_t left[EDGES], right[EDGES];
        uint64_t pair = t->merges[i].pair;
        if (pair == MERGE_EMPTY) continue;
        piece_edges(t, (int32_t)(pair >> 32), 1, left);
        piece_edges(t, (int32_t)(uint32_t)pair, 0, right);
        for (int a = 0; a < EDGES; a++)
            for (int b = 0; b < EDGES; b++)
                if (join_add(t, left[a], right[b], e)) return -1;
    }
    return 0;
}

/* Can any merge ever cross the boundary between these two symbols? */
static int is_join(const Tokenizer *t, int32_t a, int32_t b)
{
    uint64_t pair = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    return t->joins && t->joins[join_slot(t->joins, t->join_mask, pair)] == pair;
}

/* ---- symbols ------------------------------------------------------------------------------- */

static int symbol_add(Encoder *n, int32_t id)
{
    Symbol *s = room(n->symbols, n->n_symbols, &n->cap_symbols, sizeof(*s), n->e);
    if (!s) return -1;
    n->symbols = s;
    uint32_t i = (uint32_t)n->n_symbols++;
    int joined = i && is_join(n->t, s[i - 1].id, id);
    s[i] = (Symbol){joined ? i - 1 : NONE, NONE, id};
    if (joined) s[i - 1].next = i;
    return 0;
}

/* Adds all bytes of a character as "<0xNN>" tokens; 0 without any effect if one of them is missing,
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
        if (bytes) continue;
        if (t->unk_lost)
            return err_set(n->e, ERR_DATA,
                           "the vocabulary has no token for \"%.*s\", and model.unk_token, which "
                           "should stand for it, is not in model.vocab",
                           (int)(end - at), text + at);
        if (t->unk < 0) continue;
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
    if (i == NONE || s[i].next == NONE) return 0;
    const Merge *m = merge_find(n->t, s[i].id, s[s[i].next].id);
    return m ? queue_push(n, m->rank, i) : 0;
}

/* Merges all that can be merged among symbols [first, end), which no merge leads out of. */
static int symbols_merge(Encoder *n, uint32_t first, uint32_t end)
{
    Symbol *s = n->symbols;
    n->n_heap = n->n_candidates = n->n_runs = 0;
    n->free_candidate = n->free_run = NONE;
    for (uint32_t i = first; i < end; i++)
        if (candidate_add(n, i)) return -1;
    while (n->n_heap) {
        uint64_t key = queue_pop(n);
        uint32_t i = (uint32_t)key, right = s[i].next;
        if (s[i].id == BPE_GONE || right == NONE) continue;
        const Merge *m = merge_find(n->t, s[i].id, s[right].id);
        if (!m || m->rank != key >> 32) continue; /* these two have been merged with others since */
        s[i].id = m->id;
        s[i].next = s[right].next;
        s[right].id = BPE_GONE;
        if (s[i].next != NONE) s[s[i].next].previous = i;
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
    if (symbols_fill(n, text, len)) return -1;
    for (size_t i = 0, end; i < n->n_symbols; i = end) {
        for (end = i + 1; end < n->n_symbols && n->symbols[end].previous != NONE;) end++;
        if (end > i + 1 && symbols_merge(n, (uint32_t)i, (uint32_t)end)) return -1;
    }
    for (size_t i = 0; i < n->n_symbols; i++)
        if (n->symbols[i].id != BPE_GONE && ids_add(n->out, n->symbols[i].id, n->e)) return -1;
    return 0;
}

void bpe_free(Encoder *n)
{
    mem_free(n->symbols);
    mem_free(n->heap);
    mem_free(n->candidates);
    mem_free(n->runs);
}
