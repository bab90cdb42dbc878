/* Putting: from the program's memory through a slot to the receivers of its chunks. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ips_internal.h"

/* ns: between looks at the sockets while nothing is wanted; from a welcome to the first credit, which
 * is on its way */
static const int64_t LOOK = 50000000, FRESH = 50000000;

/* What is put: a block by its plan, or rows. */
typedef struct offer {
    array *a;
    plan *plan; /* NULL: rows */
    int64_t step, t, rows;
} offer;

static int64_t seconds(double value)
{
    return (int64_t)(value * 1e9);
}

bool ipsb_quiet(const ips_bridge *b)
{
    return b->fault || b->lost[0];
}

int ipsb_check(ips_bridge *b)
{
    if (b->fault && b->fault_abort)
        return ipsb_fail(b, IPS_BRIDGE_LOST, "the analysis failed: %s", b->fault_text);
    if (b->lost[0] && b->contact.abort_on_loss)
        return ipsb_fail(b, IPS_BRIDGE_LOST, "%s", b->lost);
    return IPS_BRIDGE_OK;
}

/* ---- Who may be sent what -------------------------------------------------------------------- */

/* The single piece of a rank's rows. */
static bool find_rows(ips_bridge *b, const offer *o)
{
    array *a = o->a;
    const agreement *c = a->contract;
    int64_t chunk;
    int ndim = c->ndim - 1;
    const progression *wanted = ipsb_rows_at(c, b->rank, b->size, o->t, &chunk);
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

static bool find(ips_bridge *b, const offer *o)
{
    return o->plan ? ipsb_plan_at(o->plan, o->t, &b->pieces) : find_rows(b, o);
}

/* Whether all pieces may be sent now. If not: the first receiver that is not there (`absent`), or
 * that gave no credit (`lacking`) for `row`. */
static bool admissible(ips_bridge *b, const array *a, uint32_t *absent, peer **lacking, int64_t *row)
{
    *lacking = NULL;
    for (size_t i = 0; i < b->pieces.n; i++) {
        const piece *p = &b->pieces.items[i];
        peer *k = ipsb_link_of(b, p->receiver);
        *row = p->chunk / a->contract->n_space;
        *absent = p->receiver;
        if (!k)
            return false;
        ipsb_link_start(b, k);
        if (k->standing != LINK_OPEN)
            return false;
        if (k->admitted[a->ordinal] <= *row && !ipsb_is_welcome(k, a->ordinal, p->chunk)) {
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
    ipsb_pack_number(&frame, OP_WANT, a->ordinal, 0, (uint64_t)row);
    if (!ipsb_enqueue_frame(k, &frame, false))
        return false;
    ipsb_pump(k);
    return true;
}

/* Wait until all pieces may be sent; it does not wait for credit under policy drop, nor when the
 * analysis has all that it wants. The pieces are found anew whenever something has changed, since
 * their receivers may. */
static int admit(ips_bridge *b, const offer *o, bool *admitted)
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
        if (!find(b, o))
            return ipsb_fail(b, IPS_BRIDGE_MEMORY, "array %s: no memory for its pieces", a->name);
        if (ipsb_quiet(b))
            return IPS_BRIDGE_OK;
        if (admissible(b, a, &absent, &lacking, &row)) {
            *admitted = true;
            return IPS_BRIDGE_OK;
        }
        now = ipsb_now();
        const peer *k = ipsb_link_of(b, absent);
        if (!lacking && k && k->barred)
            return ipsb_barred(b, k);
        if (!lacking && (!k || k->standing == LINK_GONE)) {
            gone_since = gone_since ? gone_since : now;
            if (now - gone_since > seconds(b->contact.connect))
                snprintf(b->lost, sizeof b->lost,
                         "receiver %u is gone, and nobody else took its chunks within %g s", absent,
                         b->contact.connect);
        } else {
            gone_since = 0;
        }
        if (lacking && (b->stop || (a->contract->drop && now - lacking->opened > FRESH)))
            return IPS_BRIDGE_OK;
        if (lacking && !want(lacking, a, row))
            return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for a message");
        deadline = deadline ? deadline : now + seconds(b->contact.step);
        if (now >= deadline && !lacking) { /* the policy decides what a lost receiver means */
            snprintf(b->lost, sizeof b->lost, "receiver %u could not be reached within %g s: %s",
                     absent, b->contact.step, k && k->why[0] ? k->why : "it does not answer");
            continue;
        }
        if (now >= deadline)
            return ipsb_fail(b, IPS_BRIDGE_DEADLINE,
                             "array %s, rank %d: receiver %u gave no credit within %g s; the "
                             "analysis holds its memory or has stopped; give workers more memory, "
                             "or raise the deadline",
                             a->name, b->rank, absent, b->contact.step);
        ipsb_progress(b, deadline);
    }
}

/* ---- Slots ---------------------------------------------------------------------------------- */

/* The n-th block of an array in a step, put or begun, has the n-th ring. */
static ring *ring_of(ips_bridge *b, array *a, int64_t step)
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
        a->rings[nth] = (ring){.number = b->next_ring++, .length = b->contact.replay_steps + NEEDED};
        a->rings[nth].slots = calloc(a->rings[nth].length, sizeof(slot *));
        if (!a->rings[nth].slots)
            return NULL;
        a->n_rings = nth + 1;
    }
    return &a->rings[nth];
}

/* Receivers need not keep a slot mapped that is used no more. */
static void retire(ips_bridge *b, slot *s)
{
    for (uint32_t i = 0; i < b->n_links && i < s->n_announced; i++) {
        buffer frame = {0};
        peer *k = b->links[i];
        if (k->standing != LINK_OPEN || s->announced[i] != k->generation)
            continue;
        ipsb_pack_slot_drop(&frame, s->number);
        (void)ipsb_enqueue_frame(k, &frame, false);
    }
    b->n_shared -= s->fd >= 0;
    ipsb_slot_free(s);
}

static slot *new_slot(ips_bridge *b, const ring *r, size_t bytes)
{
    slot *s = ipsb_slot_make(b->next_slot++, bytes, b->shared && b->n_shared < b->max_shared);
    if (s) {
        b->n_shared += s->fd >= 0;
        s->ring = r->number;
        s->length = r->length;
        s->spare = r->length - 2;
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
    if (r->n < NEEDED)
        return true;
    if (r->n >= r->length || (r->refused && bytes >= r->refused))
        return false;
    for (size_t i = 0; i < b->n_arrays; i++)
        for (size_t j = 0; j < b->arrays[i]->n_rings; j++) {
            const ring *one = &b->arrays[i]->rings[j];
            sum += replayed(one, one == r ? ipsb_slot_size(bytes) : 0);
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
    while (!may_grow(b, r, bytes)) {
        uint32_t at = r->n;
        for (uint32_t i = 0; i < r->n; i++)
            if (!r->slots[i]->pending && !r->slots[i]->busy &&
                (at == r->n || r->slots[i]->used < r->slots[at]->used))
                at = i;
        if (at == r->n)
            return NULL;
        s = r->slots[at];
        if (!s->abandoned && s->size >= bytes) {
            s->used = ++r->turn;
            return s;
        }
        retire(b, s);
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
        if (!r->slots[i]->busy)
            return false;
    return true;
}

/* Give up receivers that are not connected now, whose slots come back by this. */
static bool end_broken_links(ips_bridge *b)
{
    bool any = false;
    for (uint32_t i = 0; i < b->n_links; i++) {
        peer *k = b->links[i];
        bool holds = k->queue.first || k->unacked.first || k->held.first;
        if (k->standing == LINK_OPEN || k->standing == LINK_GONE || !holds)
            continue;
        ipsb_link_end(k);
        any = true;
    }
    return any;
}

/* A slot that may be written, marked busy; NULL with code 0 when the analytics are lost. */
static int take_slot(ips_bridge *b, ring *r, size_t bytes, slot **out, bool *waited)
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
            s->busy = true;
            ipsb_slot_clear(s);
            return IPS_BRIDGE_OK;
        }
        if ((code = ipsb_check(b)) || ipsb_quiet(b))
            return code;
        if (all_busy(r))
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "rank %d: all %u buffers are blocks that were acquired and are not "
                             "published yet",
                             b->rank, r->n);
        *waited = true;
        deadline = deadline ? deadline : ipsb_now() + seconds(b->contact.step);
        if (ipsb_now() >= deadline && end_broken_links(b))
            continue;
        if (ipsb_now() >= deadline)
            return ipsb_fail(b, IPS_BRIDGE_DEADLINE,
                             "rank %d: no buffer came back from the receivers within %g s; the "
                             "analysis holds the data or has stopped",
                             b->rank, b->contact.step);
        ipsb_progress(b, deadline);
    }
}

/* Take back a slot that was not published; it is the next one again, and so is its ring. */
static void unused(array *a, slot *s)
{
    if (a->nth && a->rings[a->nth - 1].number == s->ring)
        a->nth--;
    s->busy = false;
    s->used = 0;
    ipsb_slot_clear(s);
}

/* Wait for credit, then for a slot of `bytes` (or of what the pieces need, when 0). */
static int prepare(ips_bridge *b, const offer *o, ring *r, size_t bytes, slot **out, bool *admitted)
{
    int64_t began = ipsb_now();
    bool waited = true;
    int code = admit(b, o, admitted);
    size_t need = bytes;
    *out = NULL;
    for (size_t i = 0; !bytes && i < b->pieces.n; i++)
        need += ((size_t)(b->pieces.items[i].cut->cells * o->a->itemsize) + 63) & ~(size_t)63;
    if (!code && *admitted && b->pieces.n) {
        code = take_slot(b, r, need, out, &waited);
        if (!code && *out && waited) { /* the world may have changed meanwhile */
            code = admit(b, o, admitted);
            if (code || !*admitted) {
                unused(o->a, *out);
                *out = NULL;
            }
        }
        *admitted = *admitted && *out;
    }
    b->waited_ns += (uint64_t)(ipsb_now() - began);
    return code;
}

/* ---- Sending -------------------------------------------------------------------------------- */

/* Hand what is queued to the kernel. Shared memory needs a few bytes only; over TCP the cells are
 * waited for: nobody else would send them while the program computes. */
static int hand_over(ips_bridge *b)
{
    int64_t deadline = 0, began = 0;
    for (;;) {
        const peer *slow = NULL;
        for (uint32_t i = 0; i < b->n_links; i++) {
            peer *k = b->links[i];
            if (k->standing != LINK_OPEN || ipsb_link_idle(k))
                continue;
            if (!deadline)
                ipsb_pump(k);
            if (k->standing == LINK_OPEN && !k->shm && !ipsb_link_idle(k))
                slow = k;
        }
        if (began)
            b->waited_ns += (uint64_t)(ipsb_now() - began);
        if (!slow)
            return IPS_BRIDGE_OK;
        began = ipsb_now();
        deadline = deadline ? deadline : began + seconds(b->contact.step);
        if (began >= deadline)
            return ipsb_fail(b, IPS_BRIDGE_DEADLINE,
                             "rank %d: receiver %u at %s:%u did not read what was sent within %g s: "
                             "its worker may be stopped or overloaded",
                             b->rank, slow->at.ordinal, slow->at.host, slow->at.port,
                             b->contact.step);
        ipsb_progress(b, deadline);
    }
}

static int publish(ips_bridge *b, slot *s)
{
    bool sent = true;
    s->busy = false;
    for (size_t i = 0; i < s->n_stored; i++) {
        peer *k = ipsb_link_of(b, b->pieces.items[i].receiver);
        sent = sent && k && ipsb_enqueue_piece(k, s, i);
    }
    return sent ? hand_over(b) : ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for messages");
}

static void count(array *a, int what, uint64_t blocks, int64_t bytes)
{
    a->blocks[what] += blocks;
    a->bytes[what] += (uint64_t)bytes;
}

/* Account for a block that nobody took. */
static int not_sent(ips_bridge *b, array *a, int code, int64_t bytes)
{
    bool dropped = !code && !ipsb_quiet(b) && !b->stop;
    count(a, dropped ? DROPPED : !code && !ipsb_quiet(b) ? SKIPPED : LOST, 1, bytes);
    for (size_t i = 0; dropped && i < b->pieces.n; i++) {
        const piece *p = &b->pieces.items[i];
        peer *k = ipsb_link_of(b, p->receiver);
        buffer frame = {0};
        if (!k || k->standing == LINK_GONE)
            continue;
        ipsb_pack_number(&frame, OP_DROPPED, a->ordinal, 0, (uint64_t)p->chunk);
        if (!ipsb_enqueue_frame(k, &frame, true))
            return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for a message");
    }
    return dropped ? hand_over(b) : code;
}

static int64_t wanted_bytes(const ips_bridge *b, const array *a)
{
    int64_t cells = 0;
    for (size_t i = 0; i < b->pieces.n; i++)
        cells += b->pieces.items[i].cut->cells;
    return cells * a->itemsize;
}

/* Where a piece lies in the program's array, and the strides of its cells. */
static int64_t locate(const cut *c, int ndim, const int64_t *strides, int64_t *own)
{
    int64_t at = 0;
    for (int d = 0; d < ndim; d++) {
        at += c->src[d].start * strides[d];
        own[d] = c->src[d].step * strides[d];
    }
    return at;
}

static void begin_step(ips_bridge *b, int64_t step)
{
    if (b->in_step && b->step != step)
        ipsb_end_step(b, false); /* it travels with the first piece of the next step */
    b->in_step = true;
    b->step = step;
}

/* Remember where a block went whose place cannot be computed later. */
static void note(ips_bridge *b, const offer *o)
{
    o->a->any_step = true;
    o->a->last_step = o->step;
    if (o->plan == o->a->fixed && o->plan)
        o->a->fixed_put = true;
    else
        for (size_t i = 0; o->plan && i < b->pieces.n; i++)
            (void)ipsb_note_moved(o->a, b->pieces.items[i].chunk, o->t);
}

/* Copy the wanted cells into a slot and send it. */
static int send_cells(ips_bridge *b, const offer *o, const uint8_t *cells, const int64_t *strides,
                      int64_t total)
{
    array *a = o->a;
    int ndim = a->contract->ndim;
    bool admitted;
    slot *s;
    ring *r = ring_of(b, a, o->step);
    int code = r ? prepare(b, o, r, 0, &s, &admitted)
                 : ipsb_fail(b, IPS_BRIDGE_MEMORY, "array %s: no memory", a->name);
    if (!r || (code == IPS_BRIDGE_OK && !b->pieces.n)) {
        count(a, r ? SKIPPED : LOST, 1, total);
        return code;
    }
    int64_t wanted = wanted_bytes(b, a);
    count(a, SKIPPED, 0, total - wanted);
    note(b, o);
    if (code || !admitted)
        return not_sent(b, a, code, wanted);
    size_t place = 0;
    for (size_t i = 0; i < b->pieces.n; i++) {
        const piece *p = &b->pieces.items[i];
        int64_t counts[MAX_NDIM], from[MAX_NDIM], dense[MAX_NDIM], run = a->itemsize;
        int64_t at = locate(p->cut, ndim - 1, strides, from);
        for (int d = ndim - 2; d >= 0; d--) {
            counts[d] = p->cut->dst[d].count;
            dense[d] = run;
            run *= counts[d];
        }
        ipsb_gather(s->memory + place, cells + at, ndim - 1, counts, from, (size_t)a->itemsize, 0,
                    p->cut->cells);
        if (!ipsb_slot_store(s, a->ordinal, o->t, p, ndim, place, dense, a->itemsize)) {
            unused(a, s);
            return not_sent(b, a, ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory"), wanted);
        }
        place += ((size_t)run + 63) & ~(size_t)63;
    }
    count(a, DELIVERED, 1, wanted);
    return publish(b, s);
}

/* ---- Calls ---------------------------------------------------------------------------------- */

static bool is_wanted(const array *a, int64_t step)
{
    for (int i = 0; i < a->n_wanted; i++)
        if (ipsb_has(a->wanted[i], step))
            return true;
    return false;
}

/* Now and then, have a look at what arrived although nothing is put. */
static void glance(ips_bridge *b)
{
    struct timespec coarse;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &coarse);
#else
    clock_gettime(CLOCK_MONOTONIC, &coarse);
#endif
    int64_t now = coarse.tv_sec * (int64_t)1000000000 + coarse.tv_nsec;
    if (now - b->last_look < LOOK)
        return;
    b->last_look = now;
    ipsb_progress(b, 0);
}

static int64_t bytes_of(const array *a, const int64_t *extent)
{
    int64_t bytes = a->itemsize;
    for (int d = 0; d < a->ndim; d++)
        bytes *= extent[d];
    return bytes;
}

/* Refuse a step that does not follow those that were put. */
static int check_step(ips_bridge *b, const array *a, const put_mark *block, int64_t step)
{
    if (a->any_put && step < a->put_step)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: its steps must rise, and step "
                         "%lld was put before; a solver that goes back says so by "
                         "ips_bridge_rewind",
                         a->name, (long long)step, b->rank, (long long)a->put_step);
    if (block && block->any && block->step == step && block->rewinds == a->rewinds)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: this block was put at this step "
                         "before; put it once, or say ips_bridge_rewind to replace it",
                         a->name, (long long)step, b->rank);
    return IPS_BRIDGE_OK;
}

static int take_step(ips_bridge *b, array *a, put_mark *block, int64_t step)
{
    int code = check_step(b, a, block, step);
    if (code)
        return code;
    a->any_put = true;
    a->put_step = step;
    if (block)
        *block = (put_mark){true, step, a->rewinds};
    return IPS_BRIDGE_OK;
}

static put_mark *mark_of(array *a, plan *p)
{
    return p == a->fixed ? &a->own : &p->put;
}

/* Find the array of a put. */
static int find_array(ips_bridge *b, const char *name, array **out)
{
    *out = NULL;
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!b->joined || b->closed || !name)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "the bridge is %s",
                         !name ? "asked for an array without a name"
                               : b->closed ? "closed" : "not joined yet");
    *out = ipsb_array(b, name);
    if (!*out && b->described)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s was not declared", name);
    if (!*out && !(*out = ipsb_array_add(b, name))) /* the config may offer what nobody wants */
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", name);
    return IPS_BRIDGE_OK;
}

/* Begin a put, of the declared block or not. `out` is NULL when it is done: nobody wants the step. */
static int begin(array *a, int64_t step, bool own, array **out)
{
    ips_bridge *b = a->bridge;
    int code;
    *out = NULL;
    if (b->closed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "the bridge is closed");
    if (a->contract && is_wanted(a, step)) {
        *out = a;
        return IPS_BRIDGE_OK;
    }
    if ((code = take_step(b, a, own ? &a->own : NULL, step)))
        return code;
    a->blocks[SKIPPED]++;
    glance(b);
    return IPS_BRIDGE_OK;
}

static int wrong_kind(ips_bridge *b, const array *a)
{
    return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s %s", a->name,
                     a->ragged ? "is ragged: use ips_bridge_put_rows"
                               : "is not ragged: use ips_bridge_put");
}

int ips_bridge_array_put_block(ips_bridge_array *named, int64_t step, const void *cells,
                               const int64_t *offset, const int64_t *extent,
                               const int64_t *strides)
{
    int64_t own[MAX_NDIM], total;
    array *a = NULL;
    offer o = {0};
    int code = named ? begin(named, step, !offset && !extent, &a) : IPS_BRIDGE_USAGE;
    ips_bridge *b = named ? named->bridge : NULL;
    if (code || !a) {
        if (!code && named->ndim >= 0 && !named->ragged)
            named->bytes[SKIPPED] += (uint64_t)bytes_of(named, extent ? extent : named->count);
        return code;
    }
    if (a->ragged)
        return wrong_kind(b, a);
    if ((!offset || !extent) && !a->fixed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "array %s: this rank has %zu blocks; say which one by "
                         "ips_bridge_put_block",
                         a->name, a->n_boxes);
    offset = offset ? offset : a->offset;
    extent = extent ? extent : a->count;
    o = (offer){.a = a, .step = step, .t = ipsb_time_index(a->contract, step)};
    if ((code = ipsb_plan_of(b, a, offset, extent, &o.plan)))
        return code;
    total = bytes_of(a, extent);
    if (total && !cells)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "put of array %s: no cells", a->name);
    if ((code = take_step(b, a, mark_of(a, o.plan), step)))
        return code;
    if (!strides) {
        int64_t run = a->itemsize;
        for (int d = a->ndim - 1; d >= 0; d--) {
            own[d] = run;
            run *= extent[d] + 2 * a->halo[d];
        }
        strides = own;
    }
    begin_step(b, step);
    ipsb_progress(b, 0);
    return send_cells(b, &o, cells, strides, total);
}

int ips_bridge_array_put_rows(ips_bridge_array *named, int64_t step, const void *cells,
                              int64_t rows, const int64_t *strides)
{
    int64_t own[MAX_NDIM], total = rows;
    array *a = NULL;
    offer o = {0};
    ips_bridge *b = named ? named->bridge : NULL;
    int code;
    if (!named)
        return IPS_BRIDGE_USAGE;
    if (rows < 0 || rows > (int64_t)1 << 48 || (rows && !cells))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "put of array %s: %lld rows", named->name,
                         (long long)rows);
    code = begin(named, step, true, &a);
    if (code || !a) {
        if (!code && named->ragged) {
            for (int d = 1; d < named->ndim; d++)
                total *= named->contract ? named->contract->shape[d + 1] : named->shape[d];
            named->bytes[SKIPPED] += (uint64_t)(total * named->itemsize);
        }
        return code;
    }
    if (!a->ragged)
        return wrong_kind(b, a);
    if ((code = take_step(b, a, &a->own, step)))
        return code;
    for (int d = a->ndim - 1; d >= 0; d--) {
        own[d] = d == a->ndim - 1 ? a->itemsize : own[d + 1] * a->contract->shape[d + 2];
        total *= d ? a->contract->shape[d + 1] : 1;
    }
    o = (offer){.a = a, .step = step, .t = ipsb_time_index(a->contract, step), .rows = rows};
    begin_step(b, step);
    ipsb_progress(b, 0);
    if (rows)
        return send_cells(b, &o, cells, strides ? strides : own, total * a->itemsize);

    bool admitted;
    buffer frame = {0};
    int64_t began = ipsb_now();
    code = admit(b, &o, &admitted);
    b->waited_ns += (uint64_t)(ipsb_now() - began);
    if (!code && !b->pieces.n) {
        count(a, SKIPPED, 1, 0);
        return code;
    }
    note(b, &o);
    if (code || !admitted)
        return not_sent(b, a, code, 0);
    const piece *p = &b->pieces.items[0];
    ipsb_pack_rows(&frame, a->ordinal, 0, (uint64_t)p->chunk, (uint64_t)o.t, 0);
    (void)ipsb_note_moved(a, p->chunk, o.t); /* there is no slot that would remember it */
    count(a, DELIVERED, 1, 0);
    if (!ipsb_enqueue_frame(ipsb_link_of(b, p->receiver), &frame, true))
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for a message");
    return hand_over(b);
}

/* Whether strides are those of cells in C order without gaps. */
static bool is_packed(size_t itemsize, int ndim, const int64_t *extents, const int64_t *strides)
{
    int64_t run = (int64_t)itemsize;
    for (int d = ndim - 1; d >= 0; d--) {
        if (extents[d] > 1 && strides[d] != run)
            return false;
        run *= extents[d];
    }
    return true;
}

static int put_view(ips_bridge *b, const char *name, int64_t step, const void *cells,
                    size_t itemsize, int ndim, const int64_t *extents, const int64_t *strides,
                    const int64_t *offset, const int64_t *count)
{
    array *a;
    int64_t total = 1, expected = 1;
    bool whole = true;
    int code = find_array(b, name, &a);
    if (code)
        return code;
    if (ndim < 0 || ndim > IPS_BRIDGE_MAX_DIMS || (ndim && (!extents || !strides)))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "put of array %s: a view of %d dimensions", name, ndim);
    for (int d = 0; d < ndim; d++)
        total *= extents[d];
    if (!a->contract || !is_wanted(a, step) || a->ragged)
        return ips_bridge_array_put_block(a, step, cells, offset, count, NULL);
    if (total && (int64_t)itemsize != a->itemsize)
        return ipsb_fail(b, IPS_BRIDGE_GEOMETRY,
                         "put of array %s at step %lld on rank %d: cells have %zu bytes, those of "
                         "type %s have %lld",
                         name, (long long)step, b->rank, itemsize, a->contract->dtype,
                         (long long)a->itemsize);
    for (int d = 0; d < a->ndim; d++) {
        int64_t extent = (count ? count[d] : a->count[d]) + 2 * a->halo[d];
        expected *= extent;
        whole = whole && d < ndim && extents[d] == extent;
    }
    whole = whole && ndim == a->ndim;
    /* A view of another shape is fine if it is as many cells in a row: a workspace, for instance. */
    if ((count || a->fixed) && !whole &&
        (total != expected || !is_packed(itemsize, ndim, extents, strides)))
        return ipsb_fail(b, IPS_BRIDGE_GEOMETRY,
                         "put of array %s at step %lld on rank %d: expected a block of %lld cells "
                         "(halo included), got %lld in another shape",
                         name, (long long)step, b->rank, (long long)expected, (long long)total);
    return ips_bridge_array_put_block(a, step, cells, offset, count, whole ? strides : NULL);
}

int ips_bridge_put_view(ips_bridge *b, const char *name, int64_t step, const void *cells,
                        size_t itemsize, int ndim, const int64_t *extents, const int64_t *strides)
{
    return put_view(b, name, step, cells, itemsize, ndim, extents, strides, NULL, NULL);
}

int ips_bridge_put_view_block(ips_bridge *b, const char *name, int64_t step, const void *cells,
                              size_t itemsize, int ndim, const int64_t *extents,
                              const int64_t *strides, const int64_t *offset, const int64_t *count)
{
    if (b && (!offset || !count))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "put of array %s: say where the block is",
                         name ? name : "NULL");
    return put_view(b, name, step, cells, itemsize, ndim, extents, strides, offset, count);
}

int ips_bridge_array_put(ips_bridge_array *a, int64_t step, const void *cells)
{
    return ips_bridge_array_put_block(a, step, cells, NULL, NULL, NULL);
}

int ips_bridge_put(ips_bridge *b, const char *name, int64_t step, const void *cells)
{
    return ips_bridge_put_block(b, name, step, cells, NULL, NULL, NULL);
}

int ips_bridge_put_block(ips_bridge *b, const char *name, int64_t step, const void *cells,
                         const int64_t *offset, const int64_t *extent, const int64_t *strides)
{
    array *a;
    int code = find_array(b, name, &a);
    return code ? code : ips_bridge_array_put_block(a, step, cells, offset, extent, strides);
}

int ips_bridge_put_rows(ips_bridge *b, const char *name, int64_t step, const void *cells,
                        int64_t rows, const int64_t *strides)
{
    array *a;
    int code = find_array(b, name, &a);
    return code ? code : ips_bridge_array_put_rows(a, step, cells, rows, strides);
}

ips_bridge_array *ips_bridge_find(ips_bridge *b, const char *name)
{
    array *a;
    return find_array(b, name, &a) ? NULL : a;
}

/* ---- Blocks computed in place ---------------------------------------------------------------- */

/* Memory for a block that is not sent. */
static bool take_scratch(array *a, open_block *o)
{
    if (a->scratch && a->scratch_room >= o->bytes) {
        o->scratch = a->scratch;
        a->scratch = NULL;
        return true;
    }
    o->scratch = malloc(o->bytes + 1);
    return o->scratch != NULL;
}

/* A block is no longer open: keep its scratch memory for the next one. */
static void forget(array *a, open_block *o)
{
    open_block **at = &a->open;
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    if (o->scratch) {
        free(a->scratch);
        a->scratch = o->scratch;
        a->scratch_room = o->bytes;
    }
    free(o);
}

int ips_bridge_array_acquire(ips_bridge_array *a, int64_t step, const int64_t *offset,
                             const int64_t *extent, void **cells)
{
    ips_bridge *b = a ? a->bridge : NULL;
    bool admitted, only = !offset && !extent;
    open_block *o;
    int code;
    if (!a || !cells)
        return IPS_BRIDGE_USAGE;
    if (!b->joined || b->closed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s cannot be acquired: the bridge is %s",
                         a->name, b->closed ? "closed" : "not joined yet");
    if (a->ndim < 0 || !a->itemsize || a->ragged ||
        ((!offset || !extent) && (a->n_boxes != 1 || a->varies)))
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "array %s cannot be acquired: %s", a->name,
                         a->ragged ? "it is ragged"
                         : a->n_boxes > 1
                             ? "this rank has several blocks; say which one"
                             : "its block is not known; describe it by ips_bridge_block");
    for (o = a->open; o && only; o = o->next)
        if (o->only)
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "array %s cannot be acquired: its last block is not published yet",
                             a->name);
    if ((code = check_step(b, a, NULL, step)))
        return code;
    o = calloc(1, sizeof *o);
    if (!o)
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "array %s: no memory", a->name);
    *o = (open_block){.next = a->open, .step = step, .only = only};
    a->open = o;
    o->bytes = (size_t)a->itemsize;
    for (int d = 0; d < a->ndim; d++) {
        o->offset[d] = offset ? offset[d] : a->offset[d];
        o->count[d] = extent ? extent[d] : a->count[d];
        o->bytes *= (size_t)(o->count[d] + 2 * a->halo[d]);
    }
    if (a->contract && is_wanted(a, step)) {
        offer put = {.a = a, .step = step, .t = ipsb_time_index(a->contract, step)};
        ring *r = NULL;
        ipsb_progress(b, 0);
        code = ipsb_plan_of(b, a, o->offset, o->count, &put.plan);
        if (!code)
            code = check_step(b, a, mark_of(a, put.plan), step);
        if (!code && !(r = ring_of(b, a, step)))
            code = ipsb_fail(b, IPS_BRIDGE_MEMORY, "array %s: no memory", a->name);
        if (!code)
            code = prepare(b, &put, r, o->bytes + !o->bytes, &o->slot, &admitted);
    }
    if (!code && !o->slot && !take_scratch(a, o))
        code = ipsb_fail(b, IPS_BRIDGE_MEMORY, "array %s: no memory", a->name);
    if (code) {
        forget(a, o);
        return code;
    }
    *cells = o->slot ? o->slot->memory : o->scratch;
    return IPS_BRIDGE_OK;
}

/* Put a block that was computed in a slot. */
static int publish_slot(ips_bridge *b, array *a, const open_block *o)
{
    int64_t strides[MAX_NDIM], own[MAX_NDIM], run = a->itemsize, wanted;
    bool admitted = false, stored = true;
    slot *s = o->slot;
    offer put = {.a = a, .step = o->step, .t = ipsb_time_index(a->contract, o->step)};
    int code = ipsb_plan_of(b, a, o->offset, o->count, &put.plan);
    if (!code)
        code = take_step(b, a, mark_of(a, put.plan), o->step);
    if (code) {
        unused(a, s);
        return code;
    }
    for (int d = a->ndim - 1; d >= 0; d--) {
        strides[d] = run;
        run *= o->count[d] + 2 * a->halo[d];
    }
    begin_step(b, o->step);
    code = admit(b, &put, &admitted);
    wanted = wanted_bytes(b, a);
    count(a, SKIPPED, 0, bytes_of(a, o->count) - wanted);
    note(b, &put);
    for (size_t i = 0; !code && admitted && stored && i < b->pieces.n; i++) {
        const piece *p = &b->pieces.items[i];
        int64_t at = locate(p->cut, a->ndim, strides, own);
        stored = ipsb_slot_store(s, a->ordinal, put.t, p, a->ndim + 1, (size_t)at, own, a->itemsize);
    }
    if (!stored)
        code = ipsb_fail(b, IPS_BRIDGE_MEMORY, "array %s: no memory", a->name);
    if (code || !admitted) {
        unused(a, s);
        return not_sent(b, a, code, wanted);
    }
    count(a, DELIVERED, 1, wanted);
    return publish(b, s);
}

/* The open block whose memory this is; without memory, the only one. */
static int find_open(array *a, const void *cells, open_block **o)
{
    if (!a)
        return IPS_BRIDGE_USAGE;
    *o = a->bridge->closed ? NULL : a->open;
    while (*o && (cells ? cells != ((*o)->slot ? (*o)->slot->memory : (*o)->scratch) : !(*o)->only))
        *o = (*o)->next;
    return *o ? IPS_BRIDGE_OK
              : ipsb_fail(a->bridge, IPS_BRIDGE_USAGE, "array %s: nothing is acquired%s", a->name,
                          cells ? " at this address" : "");
}

int ips_bridge_array_publish(ips_bridge_array *a, const void *cells)
{
    open_block *o;
    int code = find_open(a, cells, &o);
    if (code)
        return code;
    if (o->slot)
        code = publish_slot(a->bridge, a, o);
    else
        code = ips_bridge_array_put_block(a, o->step, o->scratch, o->only ? NULL : o->offset,
                                          o->only ? NULL : o->count, NULL);
    forget(a, o);
    return code;
}

int ips_bridge_array_discard(ips_bridge_array *a, const void *cells)
{
    open_block *o;
    int code = find_open(a, cells, &o);
    if (code)
        return code;
    if (o->slot)
        unused(a, o->slot);
    forget(a, o);
    return IPS_BRIDGE_OK;
}

/* The same by name. */

static int acquire(ips_bridge *b, const char *name, int64_t step, const int64_t *offset,
                   const int64_t *extent, void **cells)
{
    array *a;
    int code = find_array(b, name, &a);
    return code ? code : ips_bridge_array_acquire(a, step, offset, extent, cells);
}

int ips_bridge_acquire(ips_bridge *b, const char *name, int64_t step, void **cells)
{
    return acquire(b, name, step, NULL, NULL, cells);
}

int ips_bridge_acquire_block(ips_bridge *b, const char *name, int64_t step, const int64_t *offset,
                             const int64_t *extent, void **cells)
{
    if (b && (!offset || !extent))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s cannot be acquired: say where the block is",
                         name ? name : "NULL");
    return acquire(b, name, step, offset, extent, cells);
}

int ips_bridge_publish(ips_bridge *b, const char *name)
{
    array *a;
    int code = find_array(b, name, &a);
    return code ? code : ips_bridge_array_publish(a, NULL);
}

int ips_bridge_publish_block(ips_bridge *b, const char *name, const void *cells)
{
    array *a;
    int code = find_array(b, name, &a);
    if (!code && !cells)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "publish of array %s: no cells", name);
    return code ? code : ips_bridge_array_publish(a, cells);
}

int ips_bridge_discard(ips_bridge *b, const char *name)
{
    array *a;
    int code = find_array(b, name, &a);
    return code ? code : ips_bridge_array_discard(a, NULL);
}

int ips_bridge_discard_block(ips_bridge *b, const char *name, const void *cells)
{
    array *a;
    int code = find_array(b, name, &a);
    if (!code && !cells)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "discard of array %s: no cells", name);
    return code ? code : ips_bridge_array_discard(a, cells);
}

/* ---- Asking and going back -------------------------------------------------------------------- */

int ips_bridge_array_wants(const ips_bridge_array *a, int64_t step)
{
    return a && a->bridge->joined && !a->bridge->closed && a->contract && !ipsb_quiet(a->bridge) &&
           is_wanted(a, step);
}

int ips_bridge_wants(ips_bridge *b, const char *name, int64_t step)
{
    return b && name ? ips_bridge_array_wants(ipsb_array(b, name), step) : 0;
}

int ips_bridge_rewind(ips_bridge *b, int64_t step)
{
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!b->joined || b->closed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "the bridge is not open");
    for (size_t i = 0; i < b->n_arrays; i++) {
        const array *a = b->arrays[i];
        if (a->any_step && a->last_step >= step)
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "rank %d cannot go back to step %lld: step %lld of array %s was sent, "
                             "and the analysis may have used it; go back no further than step %lld",
                             b->rank, (long long)step, (long long)a->last_step, a->name,
                             (long long)a->last_step + 1);
        if (a->open)
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "rank %d cannot go back to step %lld: a block of array %s is acquired "
                             "for step %lld; publish or discard it first",
                             b->rank, (long long)step, a->name, (long long)a->open->step);
    }
    for (size_t i = 0; i < b->n_arrays; i++) {
        array *a = b->arrays[i];
        a->rewinds++;
        if (a->any_put && a->put_step >= step)
            a->put_step = step - 1;
    }
    return IPS_BRIDGE_OK;
}

/* ---- Steps ---------------------------------------------------------------------------------- */

/* The link over which this rank reports. */
static peer *home(ips_bridge *b)
{
    if (b->home && b->home->standing == LINK_OPEN)
        return b->home;
    for (uint32_t i = 0; i < b->n_links; i++)
        if (b->links[i]->standing == LINK_OPEN)
            return b->home = b->links[i];
    return b->home && b->home->standing != LINK_GONE ? b->home : NULL;
}

void ipsb_end_step(ips_bridge *b, bool now)
{
    size_t n = (size_t)b->contract.n_arrays;
    peer *k = home(b);
    buffer frame = {0};
    uint64_t *counters;
    b->in_step = false;
    if (ipsb_quiet(b) || !k || !(counters = malloc(sizeof *counters * COUNTERS * (n + 1))))
        return;
    for (size_t i = 0; i < n; i++)
        ipsb_counters(b->agreed[i], counters + COUNTERS * i);
    ipsb_pack_step_end(&frame, b->step, b->waited_ns, counters, (uint32_t)n);
    free(counters);
    if (ipsb_enqueue_frame(k, &frame, false) && now)
        ipsb_pump(k);
}

int ips_bridge_step_end(ips_bridge *b, int64_t step)
{
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!b->joined || b->closed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "the bridge is not open");
    if (!b->in_step) {
        b->in_step = true;
        b->step = step;
    }
    if (b->step == step)
        ipsb_end_step(b, true);
    ipsb_progress(b, 0);
    return ipsb_check(b);
}

bool ipsb_drain(ips_bridge *b, double limit)
{
    int64_t deadline = ipsb_now() + seconds(limit < 1e8 ? limit : 1e8);
    for (bool first = true;; first = false) {
        bool drained = true;
        for (uint32_t i = 0; i < b->n_links; i++) {
            const peer *k = b->links[i];
            drained &= k->standing == LINK_GONE || (ipsb_link_idle(k) && !k->unacked.first);
        }
        if (drained || (!first && (ipsb_quiet(b) || ipsb_now() >= deadline)))
            return drained;
        ipsb_progress(b, deadline);
    }
}
