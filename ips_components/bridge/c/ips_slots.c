/* The slots of an array: which one is written next, and when there may be more of them. */
#include <stdio.h>
#include <stdlib.h>

#include "ips_slots.h"

enum { MAX_SLOTS = 1 << 16 }; /* that a receiver knows of a rank (wire/leases.py) */
enum { SMALL = 64 };          /* rings that would take less than this part have all their slots */

static bool has_one_owner(const agreement *c)
{
    for (uint32_t i = 1; i < c->n_owners; i++)
        if (c->owners[i] != c->owners[0])
            return false;
    return true;
}

/* Slots of a ring at most: steps that can be sent again are those of a whole chunk, or more. */
static uint32_t full_ring(const ips_bridge *b, const agreement *c)
{
    const int64_t longest = 1 << 20;
    int64_t steps = b->contact.replay_steps;
    for (int i = 0; steps && i < c->chunks[0].n_runs; i++)
        steps = c->chunks[0].runs[i].size > steps ? c->chunks[0].runs[i].size : steps;
    return (uint32_t)(steps < longest ? steps : longest) + NEEDED;
}

/* Bytes that the rings of an array would take that are to come; `wish` for a ragged one. */
static uint64_t to_come(const ips_bridge *b, const array *a, uint64_t wish)
{
    const agreement *c = a->contract;
    uint64_t bytes;
    if (!c || !a->n_wanted || (b->partial && !a->declared))
        return 0;
    if (c->ragged)
        return wish;
    if (a->settled)
        return a->more;
    bytes = (uint64_t)c->itemsize;
    for (int d = 1; d < c->ndim; d++)
        bytes *= (uint64_t)c->cover[d].count;
    return bytes / (uint64_t)b->self.size * full_ring(b, c);
}

static void count(ips_bridge *b, const ring *r, bool add)
{
    uint64_t within = (uint64_t)r->length * r->size, all = (uint64_t)r->full * r->size;
    b->settled += add ? within : 0 - within;
    b->wished += add ? all : 0 - all;
    if (r->of->contract->ragged)
        b->ragged += add ? within : 0 - within;
}

/* Decide how many slots of a size a ring has at most, and how many receivers may keep: what is there
 * for this ring and for those to come is shared out by what each would take without a limit. Of ragged
 * arrays that is not known: they have equal shares. A ring is settled with its first block, and again
 * when blocks grow (`SlotMemory` of bridge/slots.py does the same). */
static void settle(ips_bridge *b, ring *r, size_t size)
{
    const uint64_t limit = b->contact.slot_bytes, wish = (uint64_t)size * r->full;
    const uint32_t needed = r->full > NEEDED ? 2 : 1; /* one is written, one can be sent again */
    uint64_t others = 0, available, pool, share;
    array *a = r->of;
    holders *h = r->holders;
    if (!a->contract->ragged) {
        uint64_t more = to_come(b, a, 0);
        if (!r->size)
            more = more > wish ? more - wish : 0;
        a->more = 2 * more > wish ? more : 0; /* the array has further blocks in a step */
        a->settled = true;
    }
    count(b, r, false);
    available = limit > b->settled ? limit - b->settled : 0;
    pool = available + b->ragged;
    for (size_t i = 0; i < b->n_arrays; i++)
        if (b->arrays[i] != a || !a->contract->ragged)
            others += to_come(b, b->arrays[i], wish);
    share = pool;
    if (wish + others > pool && wish * SMALL > pool)
        share = (uint64_t)((double)pool * ((double)wish / (double)(wish + others)));
    share = (share < available ? share : available) / size;
    r->size = size;
    r->length = share < r->full ? (uint32_t)share : r->full;
    r->length = r->length ? r->length : 1;
    h->all = r->length > needed ? r->length - needed : 0;
    h->all = h->all < HELD ? h->all : HELD;
    h->each = has_one_owner(a->contract) || !h->all ? h->all : 1;
    for (uint32_t i = 0; i < r->n; i++)
        r->slots[i]->length = r->length;
    count(b, r, true);
    if (b->settled > limit && !b->passed) {
        b->passed = true;
        fprintf(stderr,
                "ips_components: array %s: a block of %zu bytes does not fit into what SLOT_BYTES = "
                "%llu leaves; it is sent all the same, and the blocks of this rank take %llu bytes. "
                "None would have to wait for another with SLOT_BYTES = %llu\n",
                a->name, size, (unsigned long long)limit, (unsigned long long)b->settled,
                (unsigned long long)(b->wished + others));
    }
}

/* The n-th block of an array in a step, put or begun, has the n-th ring. */
ring *ipsb_ring_of(ips_bridge *b, array *a, int64_t step)
{
    size_t nth = a->any_ring && a->ring_step == step ? a->nth : 0;
    a->any_ring = true;
    a->ring_step = step;
    a->nth = nth + 1;
    if (nth >= a->n_rings) {
        ring *more = realloc(a->rings, sizeof *more * (nth + 1));
        if (!more)
            return NULL;
        a->rings = more;
        a->rings[nth] = (ring){.of = a, .number = b->next_ring++, .full = full_ring(b, a->contract)};
        a->rings[nth].shared = b->shared ? &a->segments : NULL;
        a->rings[nth].slots = calloc(a->rings[nth].full, sizeof(slot *));
        a->rings[nth].holders = calloc(1, sizeof(holders));
        if (!a->rings[nth].slots || !a->rings[nth].holders) {
            free(a->rings[nth].slots);
            free(a->rings[nth].holders);
            return NULL;
        }
        a->n_rings = nth + 1;
    }
    return &a->rings[nth];
}

/* Receivers need not keep a slot mapped that is used no more. */
static void retire(ips_bridge *b, const ring *r, slot *s)
{
    for (uint32_t i = 0; i < b->links.n && i < s->n_announced; i++) {
        buffer frame = {0};
        peer *k = b->links.items[i];
        if (k->state != LINK_OPEN || s->announced[i] != k->generation)
            continue;
        ipsb_pack_slot_drop(&frame, s->number);
        (void)ipsb_enqueue_frame(k, &frame, false);
    }
    b->n_shared -= s->segment != NULL;
    ipsb_slot_free(s, r->shared, &b->segment_limits);
}

static slot *new_slot(ips_bridge *b, const ring *r, size_t bytes)
{
    segments *shared = b->n_shared < MAX_SLOTS ? r->shared : NULL;
    slot *s = ipsb_slot_make(b->next_slot++, bytes, r->length, shared, &b->segment_limits);
    if (s) {
        b->n_shared += s->segment != NULL;
        s->ring = r->number;
        s->length = r->length;
        s->holders = r->holders;
    }
    return s;
}

/* What a ring keeps only for replay: all but its three largest slots, `more` being one of them. */
static size_t replayed(const ring *r, size_t more)
{
    size_t sum = more, largest[NEEDED] = {more, 0, 0};
    for (uint32_t i = 0; i < r->n; i++) {
        size_t size = r->slots[i]->size;
        sum += size;
        for (int j = 0; j < NEEDED; j++)
            if (size > largest[j]) {
                size_t smaller = largest[j];
                largest[j] = size;
                size = smaller;
            }
    }
    return sum - largest[0] - largest[1] - largest[2];
}

/* Whether a ring may have one more slot, by number and by bytes. */
static bool may_grow(const ips_bridge *b, ring *r, size_t bytes)
{
    uint64_t sum = 0;
    uint32_t large = 0; /* slots that became too small do not count: receivers may keep them for long */
    if (r->n >= r->full)
        return false;
    for (uint32_t i = 0; i < r->n; i++)
        large += r->slots[i]->size >= r->size;
    if (large >= r->length)
        return false;
    if (r->n < NEEDED)
        return true;
    if (r->refused && bytes >= r->refused)
        return false;
    for (size_t i = 0; i < b->n_arrays; i++)
        for (size_t j = 0; j < b->arrays[i]->n_rings; j++) {
            const ring *entry = &b->arrays[i]->rings[j];
            sum += replayed(entry, entry == r ? ipsb_slot_size(bytes) : 0);
        }
    if (sum <= b->contact.replay_bytes)
        return true;
    r->refused = bytes ? bytes : 1;
    return false;
}

/* The free slot that was used longest ago, NULL when none is free; `failed`: no memory. */
static slot *next_slot(ips_bridge *b, ring *r, size_t bytes, bool *failed)
{
    slot *s = NULL;
    *failed = false;
    if (bytes > r->size || !r->size)
        settle(b, r, ipsb_slot_size(bytes));
    while (!may_grow(b, r, bytes)) {
        uint32_t at = r->n;
        for (uint32_t i = 0; i < r->n; i++)
            if (ipsb_slot_discardable(r->slots[i]) &&
                (at == r->n || r->slots[i]->used < r->slots[at]->used))
                at = i;
        if (at == r->n)
            return NULL;
        s = r->slots[at];
        if (ipsb_slot_usable(s) && s->size >= bytes) {
            s->used = ++r->turn;
            return s;
        }
        retire(b, r, s);
        r->slots[at] = r->slots[--r->n];
        r->refused = 0;
    }
    s = new_slot(b, r, bytes);
    *failed = !s;
    if (!s)
        return NULL;
    r->slots[r->n++] = s;
    s->used = ++r->turn;
    return s;
}

static bool all_busy(const ring *r)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (r->slots[i]->state != SLOT_WRITING)
            return false;
    return true;
}

/* Give up receivers that are not connected now, whose slots come back by this. */
static bool end_broken_links(ips_bridge *b)
{
    bool any = false;
    for (uint32_t i = 0; i < b->links.n; i++) {
        peer *k = b->links.items[i];
        bool holds = k->queue.first || k->unacked.first || k->held.first;
        if (k->state == LINK_OPEN || k->state == LINK_CLOSED || !holds)
            continue;
        ipsb_link_end(k);
        any = true;
    }
    return any;
}

/* A slot that may be written, marked so; NULL with code 0 when the analytics are lost. */
int ipsb_take_slot(ips_bridge *b, ring *r, size_t bytes, slot **out, bool *waited)
{
    int64_t deadline = 0;
    *waited = false;
    for (;;) {
        bool failed;
        slot *s = next_slot(b, r, bytes, &failed);
        int code;
        if (failed)
            return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for a buffer of %zu bytes", bytes);
        *out = s;
        if (s) {
            if (!ipsb_slot_move(s, SLOT_TAKE))
                return ipsb_fail(b, IPS_BRIDGE_PROTOCOL, "a slot cannot be taken in state %d: this "
                                 "is an error of ips_components, please report it", (int)s->state);
            ipsb_slot_clear(s);
            return IPS_BRIDGE_OK;
        }
        if ((code = ipsb_check(b)) || ipsb_is_detached(b) || b->attached_run)
            return code;
        if (all_busy(r))
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "rank %d: all %u buffers are blocks that were acquired and are not "
                             "published yet; publish one first, or allow for more by SLOT_BYTES",
                             b->self.rank, r->n);
        *waited = true;
        deadline = deadline ? deadline : ipsb_now() + ipsb_ns(b->contact.step);
        if (ipsb_now() >= deadline && end_broken_links(b))
            continue;
        if (ipsb_now() >= deadline)
            return ipsb_fail(b, IPS_BRIDGE_DEADLINE,
                             "rank %d: no buffer came back from the receivers within %g s; the "
                             "analysis holds the data or has stopped",
                             b->self.rank, b->contact.step);
        ipsb_progress(&b->links, deadline);
    }
}

/* The ring of a block that was not put is that of the next one. */
void ipsb_return_ring(array *a, uint32_t number)
{
    if (a->nth && a->rings[a->nth - 1].number == number)
        a->nth--;
}

/* Take back a slot that was not published; it is the next one again, and so is its ring. */
void ipsb_release_slot(array *a, slot *s)
{
    ipsb_return_ring(a, s->ring);
    (void)ipsb_slot_move(s, SLOT_CANCEL);
    s->used = 0;
    ipsb_slot_clear(s);
}
