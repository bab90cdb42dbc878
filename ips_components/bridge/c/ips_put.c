/* Putting: from the program's memory through a slot to the receivers of its chunks. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>

#include "ips_flush.h"
#include "ips_lend.h"
#include "ips_put.h"

/* Wait for credit, then for a slot of `bytes` (or of what the pieces need, when 0). */
int ipsb_prepare(ips_bridge *b, const put_request *o, ring *r, size_t bytes, slot **out, bool *admitted)
{
    bool waited = true;
    int code = ipsb_admit(b, o, admitted);
    size_t need = bytes;
    int64_t unit = o->ids ? 1 : o->a->itemsize; /* rows by ids are bytes */
    *out = NULL;
    for (size_t i = 0; !bytes && i < b->pieces.n; i++)
        need += ((size_t)(b->pieces.items[i].cut->cells * unit) + 63) & ~(size_t)63;
    if (!code && *admitted && b->pieces.n) {
        int64_t began = ipsb_now();
        code = ipsb_take_slot(b, r, need, out, &waited);
        b->waited_ns += (uint64_t)(ipsb_now() - began);
        if (!code && *out && waited) { /* the world may have changed meanwhile */
            code = ipsb_admit(b, o, admitted);
            if (code || !*admitted) {
                ipsb_release_slot(o->a, *out);
                *out = NULL;
            }
        }
        *admitted = *admitted && *out;
    }
    if (code)
        ipsb_return_ring(o->a, r->number);
    return code;
}

/* ---- Sending ----------------------------------------------------------------------------------- */

int ipsb_publish(ips_bridge *b, slot *s)
{
    bool sent = ipsb_slot_move(s, SLOT_PUBLISH);
    for (size_t i = 0; i < s->n_stored; i++) {
        peer *k = ipsb_link_of(&b->links, b->pieces.items[i].receiver);
        sent = sent && k && ipsb_enqueue_piece(k, s, i);
    }
    if (!s->pending) /* nothing of it could be queued */
        (void)ipsb_slot_move(s, SLOT_UNUSED);
    return sent ? ipsb_flush_all(b) : ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for messages");
}

void ipsb_count(array *a, int what, uint64_t blocks, int64_t bytes)
{
    a->blocks[what] += blocks;
    a->bytes[what] += (uint64_t)bytes;
}

/* Account for a block that no receiver took. */
int ipsb_not_sent(ips_bridge *b, array *a, int code, int64_t bytes)
{
    bool dropped = !code && !ipsb_is_detached(b) && !b->stop;
    ipsb_count(a, dropped ? DROPPED : !code && !ipsb_is_detached(b) ? SKIPPED : LOST, 1, bytes);
    for (size_t i = 0; dropped && i < b->pieces.n; i++) {
        const piece *p = &b->pieces.items[i];
        peer *k = ipsb_link_of(&b->links, p->receiver);
        buffer frame = {0};
        if (!k || k->state == LINK_CLOSED)
            continue;
        ipsb_pack_number(&frame, OP_DROPPED, 0, a->ordinal, 0, (uint64_t)p->chunk);
        if (!ipsb_enqueue_frame(k, &frame, true))
            return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for a message");
    }
    if (b->fault)
        ipsb_poll_if_due(b, b->step);
    return dropped ? ipsb_flush_all(b) : code;
}

int64_t ipsb_wanted_bytes(const ips_bridge *b, const array *a)
{
    int64_t cells = 0;
    for (size_t i = 0; i < b->pieces.n; i++)
        cells += b->pieces.items[i].cut->cells;
    return cells * a->itemsize;
}

/* Remember where a block went whose place cannot be computed later. */
void ipsb_note(ips_bridge *b, const put_request *o)
{
    o->a->any_step = true;
    o->a->last_step = o->step;
    if (o->plan == o->a->fixed && o->plan)
        o->a->fixed_put = true;
    else
        for (size_t i = 0; (o->plan || o->ids) && i < b->pieces.n; i++)
            (void)ipsb_note_moved(o->a, b->pieces.items[i].chunk, o->t,
                                  o->ids ? NULL : b->pieces.items[i].cut);
}

/* Bytes of the cells alone that are wanted of rows by ids. */
static int64_t id_bytes(const ips_bridge *b)
{
    int64_t bytes = 0;
    for (size_t i = 0; i < b->pieces.n; i++) {
        const id_cut *c = (const id_cut *)b->pieces.items[i].cut;
        bytes += c->n * c->row_bytes;
    }
    return bytes;
}

/* Copy the wanted cells into a slot and send it; once it is queued, it is put. */
static int send_copy(ips_bridge *b, const put_request *o, const uint8_t *cells, const int64_t *strides,
                     int64_t total, bool *put)
{
    array *a = o->a;
    bool admitted;
    slot *s;
    ring *r = ipsb_ring_of(b, a, o->step);
    int code = r ? ipsb_prepare(b, o, r, 0, &s, &admitted)
                 : ipsb_fail(b, IPS_BRIDGE_MEMORY, "array %s: no memory", a->name);
    *put = !code;
    if (!r || (code == IPS_BRIDGE_OK && !b->pieces.n)) {
        ipsb_count(a, r ? SKIPPED : LOST, 1, total);
        return code;
    }
    int64_t wanted = o->ids ? id_bytes(b) : ipsb_wanted_bytes(b, a);
    ipsb_count(a, SKIPPED, 0, total - wanted);
    if (*put)
        ipsb_note(b, o);
    if (code || !admitted)
        return ipsb_not_sent(b, a, code, wanted);
    size_t place = 0;
    for (size_t i = 0; i < b->pieces.n; i++) {
        int64_t bytes = ipsb_store(o, &b->pieces.items[i], s, place, cells, strides);
        if (bytes < 0) {
            ipsb_release_slot(a, s);
            return ipsb_not_sent(b, a, ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory"), wanted);
        }
        place += ((size_t)bytes + 63) & ~(size_t)63;
    }
    ipsb_count(a, DELIVERED, 1, wanted);
    return ipsb_publish(b, s);
}

/* Send the program's own memory, if the pieces are such that this pays. */
static int send_lent(ips_bridge *b, const put_request *o, const uint8_t *cells, const int64_t *strides,
                     int64_t total, bool *put)
{
    array *a = o->a;
    bool admitted, taken = false;
    int code = ipsb_admit(b, o, &admitted);
    int64_t wanted = ipsb_wanted_bytes(b, a);
    if (!code && (!admitted || !ipsb_lends(b, wanted)))
        return send_copy(b, o, cells, strides, total, put);
    if (!code)
        code = ipsb_lend(b, o, cells, strides, &taken);
    *put = !code;
    if (code)
        return code;
    ipsb_count(a, SKIPPED, 0, total - wanted);
    ipsb_note(b, o); /* until now nothing of it could be asked for again */
    if (!taken)
        return ipsb_not_sent(b, a, code, wanted);
    ipsb_count(a, DELIVERED, 1, wanted);
    return IPS_BRIDGE_OK;
}

int ipsb_send(ips_bridge *b, const put_request *o, const uint8_t *cells, const int64_t *strides,
              int64_t total)
{
    int64_t began = ipsb_now();
    bool lend = ipsb_may_lend(b, o, strides, total, began);
    bool put;
    int code = (lend ? send_lent : send_copy)(b, o, cells, strides, total, &put);
    if (put)
        ipsb_mark_step(o->a, o->plan ? ipsb_mark_of(o->a, o->plan) : &o->a->own, o->step);
    b->put_ended = ipsb_now();
    b->put_took = b->put_ended - began;
    return code;
}

/* ---- Steps ------------------------------------------------------------------------------------- */

/* Refuse a step that does not follow those that were put. */
int ipsb_check_step(ips_bridge *b, const array *a, const put_mark *block, int64_t step)
{
    if (step < b->first_step)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: launch %lu goes on at step %lld "
                         "(ips_bridge_first_step); count from there, or say RENUMBER = True in the "
                         "simulation's section of the config if the program counts from 0 at every "
                         "launch",
                         a->name, (long long)step, b->self.rank, (unsigned long)b->launch,
                         (long long)b->first_step);
    if (a->any_put && step < a->put_step)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: its steps must rise, and step "
                         "%lld was put before; a solver that goes back says so by "
                         "ips_bridge_rewind",
                         a->name, (long long)step, b->self.rank, (long long)a->put_step);
    if (block && block->any && block->step == step && block->rewinds == a->rewinds)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: this block was put at this step "
                         "before; put it once, or say ips_bridge_rewind to replace it",
                         a->name, (long long)step, b->self.rank);
    return IPS_BRIDGE_OK;
}

void ipsb_mark_step(array *a, put_mark *block, int64_t step)
{
    a->any_put = true;
    a->put_step = step;
    if (block)
        *block = (put_mark){true, step, a->rewinds};
}

int ipsb_take_step(ips_bridge *b, array *a, put_mark *block, int64_t step)
{
    int code = ipsb_check_step(b, a, block, step);
    if (!code)
        ipsb_mark_step(a, block, step);
    return code;
}

put_mark *ipsb_mark_of(array *a, plan *p)
{
    return p == a->fixed ? &a->own : &p->put;
}

int ips_bridge_array_wants(const ips_bridge_array *a, int64_t step)
{
    return a && a->bridge->joined && !a->bridge->closed && a->contract && !ipsb_is_detached(a->bridge) &&
           ipsb_is_wanted(a, step + a->bridge->shift);
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
    step += b->shift;
    for (size_t i = 0; i < b->n_arrays; i++) {
        const array *a = b->arrays[i];
        if (a->any_step && a->last_step >= step)
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "rank %d cannot go back to step %lld: step %lld of array %s was sent, "
                             "and the analysis may have used it; go back no further than step %lld",
                             b->self.rank, (long long)step, (long long)a->last_step, a->name,
                             (long long)a->last_step + 1);
        if (a->open)
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "rank %d cannot go back to step %lld: a block of array %s is acquired "
                             "for step %lld; publish or discard it first",
                             b->self.rank, (long long)step, a->name, (long long)a->open->step);
    }
    for (size_t i = 0; i < b->n_arrays; i++) {
        array *a = b->arrays[i];
        a->rewinds++;
        if (a->any_put && a->put_step >= step)
            a->put_step = step - 1;
    }
    if (b->attached)
        b->attached_calls->rewind(b, step);
    return IPS_BRIDGE_OK;
}

bool ipsb_drain(ips_bridge *b, double limit)
{
    int64_t deadline = ipsb_now() + ipsb_ns(limit < 1e8 ? limit : 1e8);
    for (bool first = true;; first = false) {
        bool drained = true;
        for (uint32_t i = 0; i < b->links.n; i++) {
            const peer *k = b->links.items[i];
            drained &= k->state == LINK_CLOSED || (ipsb_link_idle(k) && !k->unacked.first);
        }
        if (drained || (!first && (ipsb_is_detached(b) || ipsb_now() >= deadline)))
            return drained;
        ipsb_progress(&b->links, deadline);
    }
}

/* ---- Puts -------------------------------------------------------------------------------------- */

/* Find the array of a put. */
int ipsb_find_array(ips_bridge *b, const char *name, array **out)
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
    if (!*out && !(*out = ipsb_array_add(b, name))) /* the config may offer unneeded arrays */
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", name);
    return IPS_BRIDGE_OK;
}

int ipsb_find_to_put(ips_bridge *b, const char *name, int64_t step, array **out)
{
    *out = NULL;
    if (!b)
        return IPS_BRIDGE_USAGE;
    ipsb_put_begins(b, name, step + b->shift);
    return ipsb_put_ends(b, ipsb_find_array(b, name, out));
}

int ipsb_check_axis(ips_bridge *b, const array *a, int64_t step)
{
    int64_t first = a->contract ? a->contract->first : a->first;
    first = first < 0 ? first : 0;
    if (step < first)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: steps begin with %lld; count "
                         "from there",
                         a->name, (long long)step, b->self.rank, (long long)first);
    if (step >= a->end)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: the program declares its steps up "
                         "to step %lld; declare as many as it puts by ips_bridge_steps, or -1 where "
                         "their number is not known",
                         a->name, (long long)step, b->self.rank, (long long)(a->end - a->every));
    return IPS_BRIDGE_OK;
}

int ipsb_begin_put(array *a, int64_t step, bool own, array **out)
{
    ips_bridge *b = a->bridge;
    int code;
    *out = NULL;
    if (b->closed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "the bridge is closed");
    if ((code = ipsb_check_axis(b, a, step)))
        return code;
    if (a->contract && ipsb_is_wanted(a, step)) {
        *out = a;
        return IPS_BRIDGE_OK;
    }
    if ((code = ipsb_take_step(b, a, own ? &a->own : NULL, step)))
        return code;
    a->blocks[SKIPPED]++;
    if (step >= a->axis_end && step > a->furthest) {
        a->furthest = step;
        a->beyond++;
    }
    ipsb_poll_if_due(b, step);
    return IPS_BRIDGE_OK;
}

int ipsb_fail_kind(ips_bridge *b, const array *a)
{
    return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s %s", a->name,
                     a->ragged  ? "is ragged: use ips_bridge_put_rows"
                     : a->by_id ? "is indexed by ids: use ips_bridge_put_ids"
                                : "is not ragged: use ips_bridge_put");
}

static int put_block(ips_bridge_array *named, int64_t step, const void *cells,
                     const int64_t *offset, const int64_t *extent, const int64_t *strides)
{
    int64_t own[MAX_NDIM], total;
    array *a = NULL;
    put_request o = {0};
    ips_bridge *b = named->bridge;
    step += b->shift;
    int code = ipsb_begin_put(named, step, !offset && !extent, &a);
    if (code || !a) {
        if (!code && named->ndim >= 0 && !named->ragged && !named->by_id && !named->elsewhere)
            named->bytes[SKIPPED] += (uint64_t)ipsb_owned_bytes(named, offset, extent);
        return code;
    }
    if (a->ragged || a->by_id)
        return ipsb_fail_kind(b, a);
    if ((!offset || !extent) && !a->fixed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "array %s: this rank has %zu blocks; say which one by "
                         "ips_bridge_put_block",
                         a->name, a->n_boxes);
    offset = offset ? offset : a->offset;
    extent = extent ? extent : a->count;
    o = (put_request){.a = a, .step = step, .t = ipsb_time_index(a->contract, step)};
    if ((code = ipsb_plan_of(b, a, offset, extent, &o.plan)))
        return code;
    total = ipsb_owned_bytes(a, offset, extent);
    if (total && !cells)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "there are no cells");
    if ((code = ipsb_check_step(b, a, ipsb_mark_of(a, o.plan), step)))
        return code;
    if (!strides) {
        int64_t run = a->itemsize;
        for (int d = a->ndim - 1; d >= 0; d--) {
            own[d] = run;
            run *= ipsb_extent(a, d, extent[d]);
        }
        strides = own;
    }
    ipsb_begin_step(b, step);
    ipsb_progress(&b->links, 0);
    return ipsb_send(b, &o, cells, strides, total);
}

int64_t ipsb_note_newest(ips_bridge *b, int64_t step)
{
    int64_t before = b->newest;
    if (step > before)
        b->newest = step;
    if (b->attached)
        b->attached_calls->progress(b);
    return before;
}

int ips_bridge_array_put_block(ips_bridge_array *named, int64_t step, const void *cells,
                               const int64_t *offset, const int64_t *extent,
                               const int64_t *strides)
{
    ips_bridge *b = named ? named->bridge : NULL;
    if (!b)
        return IPS_BRIDGE_USAGE;
    ipsb_put_begins(b, named->name, step + b->shift);
    int code = ipsb_put_ends(b, put_block(named, step, cells, offset, extent, strides));
    if (!code) {
        int64_t before = ipsb_note_newest(b, step + b->shift);
        if (b->attached)
            b->attached_calls->put_block(named, step + b->shift, before, cells, offset, extent, strides);
    }
    return code;
}
