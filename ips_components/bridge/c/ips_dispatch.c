/* Messages of receivers, and what follows from them. Bodies were checked by ipsb_parse; here their
 * values are checked against what this rank knows. */
#include <stdio.h>
#include <stdlib.h>

#include "ips_dispatch.h"
#include "ips_feedback.h"

enum { MAX_REQUESTED = 1 << 20, MAX_LINKS = 1 << 16 };

static bool protocol_error(peer *k, const char *what)
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

/* ---- Credit and requests ----------------------------------------------------------------------- */

static void on_credit(ips_bridge *b, peer *k, const message *m)
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
    for (size_t i = 0; i < k->n_requested; i++)
        if (k->requested[i].array != a->ordinal ||
            k->requested[i].chunk / a->contract->n_space >= k->admitted[a->ordinal])
            k->requested[kept++] = k->requested[i];
    k->n_requested = kept;
}

static bool note_request(peer *k, const array *a, int64_t chunk)
{
    if (chunk / a->contract->n_space < k->admitted[a->ordinal] ||
        ipsb_is_requested(k, a->ordinal, chunk))
        return true;
    if (k->n_requested == k->room_requested) {
        size_t room = k->room_requested ? 2 * k->room_requested : 64;
        requested_chunk *more = NULL;
        if (room <= MAX_REQUESTED)
            more = realloc(k->requested, sizeof *more * room);
        if (!more)
            return protocol_error(k, "too many wishes");
        k->requested = more;
        k->room_requested = room;
    }
    k->requested[k->n_requested++] = (requested_chunk){a->ordinal, chunk};
    return true;
}

/* Send this rank's part of a chunk (again) from the slots that still hold it. */
static bool on_resend(ips_bridge *b, peer *k, const message *m)
{
    array *a = array_of(b, m->head.array);
    int64_t chunk = (int64_t)m->number, no_rows = -1;
    if (!a)
        return true;
    if (m->number > INT64_MAX ||
        chunk / a->contract->n_space >= a->contract->chunks[0].n_chunks)
        return protocol_error(k, "a wish for a chunk that does not exist");
    if (!note_request(k, a, chunk))
        return false;
    for (size_t r = 0; r < a->n_rings; r++)
        for (uint32_t i = 0; i < a->rings[r].n; i++) {
            slot *s = a->rings[r].slots[i];
            for (size_t j = 0; j < s->n_stored && s->state != SLOT_WRITING; j++)
                if (s->stored[j].chunk == chunk && !ipsb_enqueue_piece(k, s, j))
                    return protocol_error(k, "too many wishes");
        }
    bool lacks = ipsb_is_gone(b, a, chunk, &no_rows);
    if (no_rows >= 0 || lacks) {
        buffer frame = {0};
        if (no_rows >= 0) /* this rank had no rows: there is nothing that could be gone */
            ipsb_pack_rows(&frame, a->ordinal, 0, (uint64_t)chunk, (uint64_t)no_rows, 0);
        else
            ipsb_pack_number(&frame, OP_GONE, 0, a->ordinal, 0, (uint64_t)chunk);
        if (!ipsb_enqueue_frame(k, &frame, no_rows >= 0))
            return protocol_error(k, "too many wishes");
    }
    return true;
}

static bool on_release(peer *k, const message *m)
{
    if (!ipsb_on_ack(k, m->head.seq))
        return false;
    for (size_t i = 0; i < m->list_length; i++)
        if (!ipsb_on_release(k, get32(m->list + 8 * i), get32(m->list + 8 * i + 4)))
            return false;
    return true;
}

/* ---- Placement --------------------------------------------------------------------------------- */

static void stay_connected(ips_bridge *b, uint32_t receiver)
{
    peer *to = ipsb_link_of(&b->links, receiver);
    if (to)
        ipsb_link_start(&b->links, to);
}

static bool apply_placement(ips_bridge *b, peer *k, const message *m)
{
    endpoints now;
    bool has_sent = false; /* to a receiver that is gone */
    const uint8_t *at = m->list;
    const char *damaged;
    k->placed = (uint32_t)m->number;
    if (m->number < b->self.epoch)
        return true;
    for (size_t i = 0; i < m->list_length; i++) {
        uint32_t n = get32(at + 12);
        array *a = array_of(b, get32(at));
        if (a && !ipsb_place(a->contract, get32(at + 4), get32(at + 8), n, at + 16))
            return protocol_error(k, "a placement that does not fit the contract");
        at += 16 + 4 * (size_t)n;
    }
    damaged = ipsb_parse_endpoints(&now, m->receivers, m->receivers_length);
    if (damaged || b->links.n + (uint64_t)now.n > MAX_LINKS) {
        ipsb_endpoints_free(&now);
        return protocol_error(k, damaged ? damaged : "too many receivers");
    }
    b->self.epoch = (uint32_t)m->number;
    for (uint32_t i = 0; i < b->links.n; i++) {
        bool named = false;
        for (uint32_t j = 0; j < now.n; j++)
            named |= now.items[j].ordinal == b->links.items[i]->at.ordinal;
        if (named || b->links.items[i]->removed)
            continue;
        snprintf(b->links.items[i]->why, sizeof b->links.items[i]->why, "it has left the run");
        b->links.items[i]->removed = b->links.items[i]->bye_sent = true;
        has_sent |= b->links.items[i]->seq > 0;
        ipsb_link_end(b->links.items[i]);
        if (b->links.home == b->links.items[i])
            b->links.home = NULL;
    }
    for (uint32_t j = 0; j < now.n; j++)
        if (!ipsb_link_of(&b->links, now.items[j].ordinal))
            (void)ipsb_link_add(&b->links, &now.items[j]); /* without memory: puts to it will say so */
    ipsb_endpoints_free(&now);
    /* The new owners of what the slots hold will ask for it, and those of what was sent to a receiver
     * that is gone, which has to be said to be gone too: stay connected. */
    for (size_t i = 0; i < b->n_arrays; i++) {
        const array *a = b->arrays[i];
        for (uint32_t j = 0; has_sent && a->contract && a->any_step && j < a->contract->n_owners; j++)
            stay_connected(b, a->contract->owners[j]);
        for (size_t r = 0; r < a->n_rings; r++)
            for (uint32_t s = 0; s < a->rings[r].n; s++) {
                const slot *held = a->rings[r].slots[s];
                for (size_t j = 0; j < held->n_stored; j++)
                    stay_connected(b, ipsb_owner(a->contract, held->stored[j].chunk));
            }
    }
    return true;
}

/* ---- All messages ------------------------------------------------------------------------------ */

static bool on_welcome(ips_bridge *b, peer *k, const message *m)
{
    if (!ipsb_on_welcome(k, m->number))
        return false;
    k->silence = (int64_t)(m->silence ? m->silence : 30000) * 1000000;
    k->state = LINK_OPEN;
    k->opened_at = ipsb_now();
    k->placed = 0;
    k->refused = k->bye_sent = k->needs_tls = false;
    for (int i = 0; i < b->contract.n_arrays; i++) {
        k->admitted[i] = 0;
        k->wanted[i] = -1;
    }
    return true;
}

static bool on_contract(ips_bridge *b, peer *k, const message *m)
{
    if (b->self.has_contract || b->contract_frame) /* a rank keeps the one that it joined with */
        return true;
    b->contract_frame = malloc((size_t)m->head.body + 1);
    if (!b->contract_frame)
        return protocol_error(k, "a contract for which there is no memory");
    memcpy(b->contract_frame, m->digest, m->head.body); /* the digest begins the body */
    b->contract_length = m->head.body;
    return true;
}

bool ipsb_dispatch(ips_bridge *b, peer *k, const message *m)
{
    switch (m->head.op) {
    case OP_WELCOME:
        return on_welcome(b, k, m);
    case OP_CHALLENGE:
        return ipsb_link_challenged(&b->links, k, m);
    case OP_CONTRACT:
        return on_contract(b, k, m);
    case OP_CREDIT:
        on_credit(b, k, m);
        return true;
    case OP_RESEND:
        return on_resend(b, k, m);
    case OP_ACK:
        return ipsb_on_ack(k, m->number);
    case OP_RELEASE:
        return on_release(k, m);
    case OP_PLACEMENT:
        return apply_placement(b, k, m);
    case OP_FEEDBACK:
        if (m->text_length) /* one without a name is the last */
            ipsb_feedback_store(b, m);
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
    case OP_ATTACH:
        return !b->attached_calls || b->attached_calls->attach(b, m->data, m->data_length);
    default: /* Ping */
        return true;
    }
}
