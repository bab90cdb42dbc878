/* Which receivers may be sent what: waiting for links and credit. */
#include <stdio.h>
#include <stdlib.h>

#include "ips_admit.h"

/* messages in the queue of a receiver that a put which may not wait adds nothing to */
enum { BEHIND = 64 };
/* ns from a welcome to the first credit, which is on its way */
static const int64_t FIRST_CREDIT_GRACE = 50000000;

/* The single piece of a rank's rows. */
static bool find_rows(ips_bridge *b, const put_request *o)
{
    array *a = o->a;
    const agreement *c = a->contract;
    int64_t chunk;
    int ndim = c->ndim - 1;
    const progression *wanted = ipsb_rows_at(c, b->self.rank, b->self.size, o->t, &chunk);
    progression *src = a->row_spans, *dst = a->row_spans + ndim;
    b->pieces.n = 0;
    if (!wanted)
        return true;
    if (!b->pieces.room && !(b->pieces.items = malloc(sizeof *b->pieces.items)))
        return false;
    b->pieces.room = b->pieces.room ? b->pieces.room : 1;
    a->row_cut = (cut){chunk % c->n_space, o->rows, src, dst};
    src[0] = dst[0] = (progression){0, o->rows, 1};
    for (int d = 1; d < ndim; d++) {
        src[d] = wanted[d + 1];
        dst[d] = (progression){0, wanted[d + 1].count, 1};
        a->row_cut.cells *= wanted[d + 1].count;
    }
    b->pieces.items[0] =
        (piece){chunk, ipsb_owner(c, chunk), {0, 1, 1}, &a->row_cut};
    b->pieces.n = 1;
    return true;
}

bool ipsb_find_pieces(ips_bridge *b, const put_request *o)
{
    return o->plan  ? ipsb_plan_at(o->plan, o->t, &b->pieces)
           : o->ids ? ipsb_ids_at(o->ids, o->t, &b->pieces)
                    : find_rows(b, o);
}

/* Whether all pieces may be sent now. If not: the first receiver that is not there (`absent`), or
 * that gave no credit (`lacking`) for `row`. */
static bool admissible(ips_bridge *b, const array *a, uint32_t *absent, peer **lacking, int64_t *row)
{
    *lacking = NULL;
    for (size_t i = 0; i < b->pieces.n; i++) {
        const piece *p = &b->pieces.items[i];
        peer *k = ipsb_link_of(&b->links, p->receiver);
        *row = p->chunk / a->contract->n_space;
        *absent = p->receiver;
        if (!k)
            return false;
        ipsb_link_start(&b->links, k);
        if (k->state != LINK_OPEN)
            return false;
        if (k->admitted[a->ordinal] <= *row && !ipsb_is_requested(k, a->ordinal, p->chunk)) {
            *lacking = k;
            return false;
        }
    }
    return true;
}

static bool want(peer *k, const array *a, int64_t row)
{
    buffer frame = {0};
    if (k->wanted[a->ordinal] == row)
        return true;
    k->wanted[a->ordinal] = row;
    ipsb_pack_number(&frame, OP_WANT, 0, a->ordinal, 0, (uint64_t)row);
    if (!ipsb_enqueue_frame(k, &frame, false))
        return false;
    ipsb_flush(k);
    return true;
}

/* Whether a receiver of these pieces has much to read already. */
static bool is_behind(const ips_bridge *b)
{
    for (size_t i = 0; i < b->pieces.n; i++) {
        const peer *k = ipsb_link_of(&b->links, b->pieces.items[i].receiver);
        if (b->stop || !k || k->n_queue > BEHIND)
            return true;
    }
    return false;
}

/* Wait until all pieces may be sent; it does not wait for credit under policy drop, nor when the
 * analysis has all that it wants. The pieces are found anew whenever something has changed, since
 * their receivers may. */
static int admit(ips_bridge *b, const put_request *o, bool *admitted)
{
    const array *a = o->a;
    int64_t now = 0, deadline = 0, gone_since = 0, row = 0;
    uint32_t absent = 0;
    peer *lacking;
    *admitted = false;
    for (;;) {
        int code = ipsb_check(b);
        if (code)
            return code;
        if (!ipsb_find_pieces(b, o))
            return ipsb_fail(b, IPS_BRIDGE_MEMORY, "array %s: no memory for its pieces", a->name);
        if (ipsb_is_detached(b))
            return IPS_BRIDGE_OK;
        if (admissible(b, a, &absent, &lacking, &row)) {
            *admitted = !b->attached_run || !is_behind(b);
            return IPS_BRIDGE_OK;
        }
        if (b->attached_run) /* nothing waits for it */
            return IPS_BRIDGE_OK;
        now = ipsb_now();
        const peer *k = ipsb_link_of(&b->links, absent);
        if (!lacking && k && k->needs_tls)
            return ipsb_fail_needs_tls(b, k);
        if (!lacking && (!k || k->state == LINK_CLOSED)) {
            gone_since = gone_since ? gone_since : now;
            if (now - gone_since > ipsb_ns(b->contact.connect))
                snprintf(b->links.lost, sizeof b->links.lost,
                         "receiver %u is gone, and no other took its chunks within %g s", absent,
                         b->contact.connect);
        } else {
            gone_since = 0;
        }
        /* With at most n steps a step that has begun is put by all ranks, stop or not. */
        bool stopped = b->stop && !a->contract->at_most;
        /* A receiver that has not said yet that it follows the newest placement may have room for
         * what it owns since: its credit is on its way. */
        bool full = a->contract->drop && lacking && lacking->placed >= b->self.epoch &&
                    now - lacking->opened_at > FIRST_CREDIT_GRACE;
        if (lacking && (stopped || full))
            return IPS_BRIDGE_OK;
        if (lacking && !want(lacking, a, row))
            return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for a message");
        deadline = deadline ? deadline : now + ipsb_ns(b->contact.step);
        if (now >= deadline && !lacking) { /* the policy decides what a lost receiver means */
            snprintf(b->links.lost, sizeof b->links.lost, "receiver %u could not be reached within %g s: %s",
                     absent, b->contact.step, k && k->why[0] ? k->why : "it does not answer");
            continue;
        }
        if (now >= deadline)
            return ipsb_fail(b, IPS_BRIDGE_DEADLINE,
                             "array %s, rank %d: receiver %u gave no credit within %g s; the "
                             "analysis holds its memory or has stopped; give workers more memory, "
                             "or raise the deadline",
                             a->name, b->self.rank, absent, b->contact.step);
        ipsb_progress(&b->links, deadline);
    }
}

int ipsb_admit(ips_bridge *b, const put_request *o, bool *admitted)
{
    int64_t began = ipsb_now();
    int code = admit(b, o, admitted);
    b->waited_ns += (uint64_t)(ipsb_now() - began);
    return code;
}
