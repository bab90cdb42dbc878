/* What receivers say, and what follows from it. Bodies were checked by ipsb_parse; here their
 * values are checked against what this rank knows. */
#include <stdio.h>
#include <stdlib.h>

#include "ips_internal.h"

enum { MAX_WELCOME = 1 << 20, MAX_LINKS = 1 << 16, FEEDBACK_KEPT = 4096 };

static bool wrong(peer *k, const char *what)
{
    snprintf(k->why, sizeof k->why, "it sent %s", what);
    return false;
}

static array *array_of(ips_bridge *b, uint32_t ordinal)
{
    return b->agreed && ordinal < (uint32_t)b->contract.n_arrays ? b->agreed[ordinal] : NULL;
}

/* Copy a text from the wire, as much as fits; control characters must not reach a terminal. */
static void copy_text(char *to, size_t room, const char *text, size_t length)
{
    size_t n = length < room - 1 ? length : room - 1;
    for (size_t i = 0; i < n; i++)
        to[i] = (unsigned char)text[i] < 0x20 && text[i] != '\n' ? '?' : text[i];
    to[n] = '\0';
}

/* ---- Credit and wishes ---------------------------------------------------------------------- */

bool ipsb_is_welcome(const peer *k, uint32_t array, int64_t chunk)
{
    for (size_t i = 0; i < k->n_welcome; i++)
        if (k->welcome[i].chunk == chunk && k->welcome[i].array == array)
            return true;
    return false;
}

static void credit(ips_bridge *b, peer *k, const message *m)
{
    const array *a = array_of(b, m->head.array);
    int64_t rows = m->number > INT64_MAX ? INT64_MAX : (int64_t)m->number;
    size_t kept = 0;
    if (!a)
        return;
    if (rows > k->admitted[a->ordinal])
        k->admitted[a->ordinal] = rows;
    k->wanted[a->ordinal] = -1;
    /* Chunks that were asked for one by one need no exception any more. */
    for (size_t i = 0; i < k->n_welcome; i++)
        if (k->welcome[i].array != a->ordinal ||
            k->welcome[i].chunk / a->contract->n_space >= k->admitted[a->ordinal])
            k->welcome[kept++] = k->welcome[i];
    k->n_welcome = kept;
}

static bool note_welcome(peer *k, const array *a, int64_t chunk)
{
    if (chunk / a->contract->n_space < k->admitted[a->ordinal] ||
        ipsb_is_welcome(k, a->ordinal, chunk))
        return true;
    if (k->n_welcome == k->room_welcome) {
        size_t room = k->room_welcome ? 2 * k->room_welcome : 64;
        welcome_chunk *more = NULL;
        if (room <= MAX_WELCOME)
            more = realloc(k->welcome, sizeof *more * room);
        if (!more)
            return wrong(k, "too many wishes");
        k->welcome = more;
        k->room_welcome = room;
    }
    k->welcome[k->n_welcome++] = (welcome_chunk){a->ordinal, chunk};
    return true;
}

/* Send this rank's part of a chunk (again) from the slots that still hold it. */
static bool resend(ips_bridge *b, peer *k, const message *m)
{
    array *a = array_of(b, m->head.array);
    int64_t chunk = (int64_t)m->number, no_rows = -1;
    if (!a)
        return true;
    if (m->number > INT64_MAX ||
        chunk / a->contract->n_space >= a->contract->chunks[0].n_chunks)
        return wrong(k, "a wish for a chunk that does not exist");
    if (!note_welcome(k, a, chunk))
        return false;
    for (size_t r = 0; r < a->n_rings; r++)
        for (uint32_t i = 0; i < a->rings[r].n; i++) {
            slot *s = a->rings[r].slots[i];
            for (size_t j = 0; j < s->n_stored && !s->busy; j++)
                if (s->stored[j].chunk == chunk && !ipsb_enqueue_piece(k, s, j))
                    return wrong(k, "too many wishes");
        }
    bool lacks = ipsb_lacks(b, a, chunk, &no_rows);
    if (no_rows >= 0 || lacks) {
        buffer frame = {0};
        if (no_rows >= 0) /* this rank had no rows: there is nothing that could be gone */
            ipsb_pack_rows(&frame, a->ordinal, 0, (uint64_t)chunk, (uint64_t)no_rows, 0);
        else
            ipsb_pack_number(&frame, OP_GONE, a->ordinal, 0, (uint64_t)chunk);
        if (!ipsb_enqueue_frame(k, &frame, no_rows >= 0))
            return wrong(k, "too many wishes");
    }
    return true;
}

static bool release(peer *k, const message *m)
{
    uint64_t last = 0;
    for (size_t i = 0; i < m->list_length; i++) {
        uint64_t seq = get64(m->list + 8 * i);
        last = seq > last ? seq : last;
    }
    if (!ipsb_taken(k, last))
        return false;
    for (size_t i = 0; i < m->list_length; i++)
        ipsb_released(k, get64(m->list + 8 * i));
    return true;
}

/* ---- Placement ------------------------------------------------------------------------------ */

static bool follow(ips_bridge *b, peer *k, const message *m)
{
    endpoints now;
    const uint8_t *at = m->list;
    const char *damaged;
    if (m->number < b->epoch)
        return true;
    for (size_t i = 0; i < m->list_length; i++) {
        uint32_t n = get32(at + 12);
        array *a = array_of(b, get32(at));
        if (a && !ipsb_place(a->contract, get32(at + 4), get32(at + 8), n, at + 16))
            return wrong(k, "a placement that does not fit the contract");
        at += 16 + 4 * (size_t)n;
    }
    damaged = ipsb_parse_endpoints(&now, m->receivers, m->receivers_length);
    if (damaged || b->n_links + (uint64_t)now.n > MAX_LINKS) {
        ipsb_endpoints_free(&now);
        return wrong(k, damaged ? damaged : "too many receivers");
    }
    b->epoch = (uint32_t)m->number;
    for (uint32_t i = 0; i < b->n_links; i++) {
        bool named = false;
        for (uint32_t j = 0; j < now.n; j++)
            named |= now.items[j].ordinal == b->links[i]->at.ordinal;
        if (named || b->links[i]->removed)
            continue;
        snprintf(b->links[i]->why, sizeof b->links[i]->why, "it has left the run");
        b->links[i]->removed = b->links[i]->left = true;
        ipsb_link_end(b->links[i]);
        if (b->home == b->links[i])
            b->home = NULL;
    }
    for (uint32_t j = 0; j < now.n; j++)
        if (!ipsb_link_of(b, now.items[j].ordinal))
            (void)ipsb_link_add(b, &now.items[j]); /* without memory: puts to it will say so */
    ipsb_endpoints_free(&now);
    /* Those who now own what the slots hold will ask for it: be there. */
    for (size_t i = 0; i < b->n_arrays; i++)
        for (size_t r = 0; r < b->arrays[i]->n_rings; r++)
            for (uint32_t s = 0; s < b->arrays[i]->rings[r].n; s++) {
                const slot *held = b->arrays[i]->rings[r].slots[s];
                for (size_t j = 0; j < held->n_stored; j++) {
                    uint32_t owner = ipsb_owner(b->arrays[i]->contract, held->stored[j].chunk);
                    peer *to = ipsb_link_of(b, owner);
                    if (to)
                        ipsb_link_start(b, to);
                }
            }
    return true;
}

/* ---- Values --------------------------------------------------------------------------------- */

static void free_feedback(feedback *f)
{
    free(f->name);
    free(f->data);
    free(f);
}

void ipsb_feedback_free(ips_bridge *b)
{
    while (b->feedback) {
        feedback *next = b->feedback->next;
        free_feedback(b->feedback);
        b->feedback = next;
    }
    b->n_feedback = 0;
}

feedback *ipsb_feedback(ips_bridge *b, const char *name, int64_t step, bool exact)
{
    feedback *best = NULL;
    for (feedback *f = b->feedback; f; f = f->next)
        if ((f->step == step || (!exact && f->step < step)) && !strcmp(f->name, name) &&
            (!best || f->step > best->step))
            best = f;
    return best;
}

/* Keep a value, newest first; one that is damaged is as good as none. */
static void keep(ips_bridge *b, const message *m)
{
    feedback *f = calloc(1, sizeof *f);
    size_t count = 1;
    if (!f)
        return;
    f->step = m->step;
    f->kind = m->kind;
    f->ndim = m->ndim;
    if (m->ndim <= sizeof f->shape / sizeof *f->shape)
        for (int d = 0; d < m->ndim; d++) {
            uint64_t n = get64(m->shape + 8 * d);
            if (n > m->data_length || (n && count > m->data_length / n)) {
                count = SIZE_MAX;
                break;
            }
            f->shape[d] = (int64_t)n;
            count *= (size_t)n;
        }
    bool numbers = m->kind <= IPS_BRIDGE_INTEGER;
    if (m->kind > IPS_BRIDGE_JSON || m->ndim > sizeof f->shape / sizeof *f->shape ||
        (numbers && (count > m->data_length / 8 || count * 8 != m->data_length))) {
        free(f);
        return;
    }
    f->count = numbers ? count : 1;
    f->bytes = m->data_length;
    f->name = malloc(m->text_length + 1);
    f->data = malloc(m->data_length + 8);
    if (!f->name || !f->data) {
        free_feedback(f);
        return;
    }
    memcpy(f->name, m->text, m->text_length);
    f->name[m->text_length] = '\0';
    if (numbers)
        for (size_t i = 0; i < count; i++) {
            uint64_t bits = get64(m->data + 8 * i);
            memcpy(f->data + 8 * i, &bits, 8);
        }
    else
        memcpy(f->data, m->data, m->data_length);
    f->data[f->bytes] = '\0';
    for (feedback **at = &b->feedback; *at; at = &(*at)->next)
        if ((*at)->step == f->step && !strcmp((*at)->name, f->name)) {
            feedback *old = *at;
            *at = old->next;
            free_feedback(old);
            b->n_feedback--;
            break;
        }
    f->next = b->feedback;
    b->feedback = f;
    if (++b->n_feedback <= FEEDBACK_KEPT)
        return;
    feedback **last = &b->feedback;
    while ((*last)->next)
        last = &(*last)->next;
    free_feedback(*last);
    *last = NULL;
    b->n_feedback--;
}

/* ---- All messages --------------------------------------------------------------------------- */

static bool welcome(ips_bridge *b, peer *k, const message *m)
{
    if (!ipsb_welcomed(k, m->number))
        return false;
    k->silence = (int64_t)(m->silence ? m->silence : 30000) * 1000000;
    k->standing = LINK_OPEN;
    k->opened = ipsb_now();
    k->refused = k->left = k->barred = false;
    for (int i = 0; i < b->contract.n_arrays; i++) {
        k->admitted[i] = 0;
        k->wanted[i] = -1;
    }
    return true;
}

static bool contract_is(ips_bridge *b, peer *k, const message *m)
{
    if (b->has_contract || b->contract_frame) /* a rank keeps the one that it joined with */
        return true;
    b->contract_frame = malloc((size_t)m->head.body + 1);
    if (!b->contract_frame)
        return wrong(k, "a contract for which there is no memory");
    memcpy(b->contract_frame, m->digest, m->head.body); /* the digest begins the body */
    b->contract_length = m->head.body;
    return true;
}

bool ipsb_take(ips_bridge *b, peer *k, const message *m)
{
    switch (m->head.op) {
    case OP_WELCOME:
        return welcome(b, k, m);
    case OP_CONTRACT:
        return contract_is(b, k, m);
    case OP_CREDIT:
        credit(b, k, m);
        return true;
    case OP_RESEND:
        return resend(b, k, m);
    case OP_ACK:
        return ipsb_taken(k, m->number);
    case OP_RELEASE:
        return release(k, m);
    case OP_PLACEMENT:
        return follow(b, k, m);
    case OP_FEEDBACK:
        if (m->text_length) /* one without a name is the last */
            keep(b, m);
        else
            b->no_more = true;
        return true;
    case OP_FAULT:
        if (!b->fault) {
            b->fault = true;
            b->fault_abort = m->number == 1;
            copy_text(b->fault_text, sizeof b->fault_text, m->text, m->text_length);
        }
        return true;
    case OP_STOP:
        b->stop = true;
        return true;
    case OP_BYE_ACK:
        k->bye_acked = true;
        return true;
    case OP_REFUSED:
        k->refused = true;
        snprintf(k->why, sizeof k->why, "refused: ");
        copy_text(k->why + 9, sizeof k->why - 9, m->text, m->text_length);
        return false;
    default: /* Ping */
        return true;
    }
}
