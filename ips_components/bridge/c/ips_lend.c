/* Without a replay buffer a put need not copy: where one put follows the other and all receivers are
 * reached by TCP, it sends the program's own memory and waits until they have taken it
 * (bridge/put_path.py has the same rule). */
#include <stdlib.h>

#include "ips_copy.h"
#include "ips_flush.h"
#include "ips_lend.h"
#include "ips_slots.h"

enum { WORTH_LENDING = 1 << 18 }; /* bytes */
static const int64_t SHORT = 200000;  /* ns */

static bool any_over_tcp(const ips_bridge *b)
{
    for (uint32_t i = 0; i < b->links.n; i++)
        if (b->links.items[i]->state == LINK_OPEN && !b->links.items[i]->shm)
            return true;
    return false;
}

bool ipsb_may_lend(const ips_bridge *b, const put_request *o, const int64_t *strides, int64_t total,
                   int64_t began)
{
    int64_t idle = began - b->put_ended, half = b->put_took / 2;
    if (!o->plan || b->contact.replay_steps || b->attached_run || total < WORTH_LENDING ||
        idle >= (half > SHORT ? half : SHORT) || !any_over_tcp(b))
        return false;
    for (int d = 0; d < o->a->contract->ndim - 1; d++)
        if (strides[d] < 0)
            return false;
    return true;
}

bool ipsb_lends(const ips_bridge *b, int64_t bytes)
{
    for (size_t i = 0; i < b->pieces.n; i++) {
        const peer *k = ipsb_link_of(&b->links, b->pieces.items[i].receiver);
        if (!k || k->state != LINK_OPEN || k->shm)
            return false;
    }
    return bytes >= WORTH_LENDING;
}

static bool enqueue(ips_bridge *b, const put_request *o, slot *s, const int64_t *strides)
{
    const array *a = o->a;
    int64_t own[MAX_NDIM];
    for (size_t i = 0; i < b->pieces.n; i++) {
        const piece *p = &b->pieces.items[i];
        int64_t at = ipsb_locate(p->cut, a->contract->ndim - 1, strides, own);
        peer *k = ipsb_link_of(&b->links, p->receiver);
        if (!k || !ipsb_slot_store(s, a->ordinal, o->t, p, a->contract->ndim, (size_t)at, own, a->itemsize) ||
            !ipsb_enqueue_piece(k, s, i))
            return false;
    }
    return true;
}

/* The link, open or being repaired, that has something to send or unanswered and took its last byte
 * the longest ago. */
static peer *slowest(const ips_bridge *b)
{
    peer *slow = NULL;
    for (size_t i = 0; i < b->pieces.n; i++) {
        peer *k = ipsb_link_of(&b->links, b->pieces.items[i].receiver);
        if (!k || k->state == LINK_CLOSED || !(k->queue.first || k->unacked.first))
            continue;
        if (!slow || k->last_sent < slow->last_sent)
            slow = k;
    }
    return slow;
}

static int wait_until_taken(ips_bridge *b, const slot *s)
{
    const int64_t began = ipsb_now();
    int code = IPS_BRIDGE_OK;
    while (s->pending && !(code = ipsb_check(b)) && !ipsb_is_detached(b)) {
        peer *slow = slowest(b);
        int64_t deadline = ipsb_patience(b, slow, began);
        if (ipsb_now() < deadline) {
            ipsb_progress(&b->links, deadline);
        } else if (slow && slow->state != LINK_OPEN) { /* the policy decides what that means */
            ipsb_link_end(slow);
        } else {
            code = ipsb_fail_slow(b, slow, "take a block");
            break;
        }
    }
    b->waited_ns += (uint64_t)(ipsb_now() - began);
    return code;
}

static size_t remove_from(items *list, const slot *s)
{
    items kept = {NULL, NULL};
    size_t removed = 0;
    for (item *entry = ipsb_pop(list); entry; entry = ipsb_pop(list)) {
        if (entry->slot != s) {
            ipsb_push(&kept, entry);
            continue;
        }
        removed++;
        free(entry);
    }
    *list = kept;
    return removed;
}

/* Forget pieces of memory that its owner is about to write, one under way as well. */
static void withdraw(ips_bridge *b, const slot *s)
{
    for (uint32_t i = 0; i < b->links.n; i++) {
        peer *k = b->links.items[i];
        if (k->bulk && k->bulk->slot == s)
            ipsb_link_broken(k, "the put whose cells were being sent has failed");
        k->n_queue -= remove_from(&k->queue, s);
        (void)remove_from(&k->unacked, s);
    }
}

/* Whether the receivers of the pieces are there, and still own their chunks: who owns a chunk by now
 * may have asked for it while it was nowhere, and asks but once. */
static bool still_theirs(const ips_bridge *b, const array *a, uint32_t epoch)
{
    for (size_t i = 0; i < b->pieces.n; i++) {
        const piece *p = &b->pieces.items[i];
        const peer *k = ipsb_link_of(&b->links, p->receiver);
        if (!k || k->state == LINK_CLOSED)
            return false;
        if (epoch != b->self.epoch && ipsb_owner(a->contract, p->chunk) != p->receiver)
            return false;
    }
    return true;
}

int ipsb_lend(ips_bridge *b, const put_request *o, const uint8_t *cells, const int64_t *strides,
              bool *taken)
{
    bool admitted = true;
    int code = IPS_BRIDGE_OK;
    *taken = false;
    while (!code && admitted && !*taken) {
        uint32_t epoch = b->self.epoch;
        /* Nothing writes through it. */
        slot s = {.memory = (uint8_t *)(uintptr_t)cells, .state = SLOT_WRITING, .lent = true};
        (void)ipsb_slot_move(&s, SLOT_PUBLISH);
        if (!enqueue(b, o, &s, strides))
            code = ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for messages");
        if (!code)
            code = ipsb_flush_all(b);
        if (!code)
            code = wait_until_taken(b, &s);
        *taken = !code && !s.pending && still_theirs(b, o->a, epoch);
        if (s.pending)
            withdraw(b, &s);
        free(s.stored);
        free(s.numbers);
        free(s.announced);
        if (!code && !*taken)
            code = ipsb_admit(b, o, &admitted);
    }
    return code;
}
