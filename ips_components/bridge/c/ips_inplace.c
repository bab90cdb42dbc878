/* Blocks that the program computes inside a slot. */
#include <stdlib.h>

#include "ips_put.h"

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
static void close_open_block(array *a, open_block *o)
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

static int acquire_block(array *a, int64_t step, const int64_t *offset, const int64_t *extent,
                         void **cells)
{
    ips_bridge *b = a->bridge;
    bool admitted, only = !offset && !extent;
    open_block *o;
    int code;
    if (!b->joined || b->closed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s cannot be acquired: the bridge is %s",
                         a->name, b->closed ? "closed" : "not joined yet");
    if (a->ndim < 0 || !a->itemsize || a->ragged || a->by_id ||
        ((!offset || !extent) && (a->n_boxes != 1 || a->varies)))
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "array %s cannot be acquired: %s", a->name,
                         a->ragged ? "it is ragged"
                         : a->by_id ? "it is indexed by ids"
                         : a->n_boxes > 1
                             ? "this rank has several blocks; say which one"
                             : "its block is not known; describe it by ips_bridge_block");
    for (o = a->open; o && only; o = o->next)
        if (o->only)
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "array %s cannot be acquired: its last block is not published yet",
                             a->name);
    if ((code = ipsb_check_axis(b, a, step)) || (code = ipsb_check_step(b, a, NULL, step)))
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
        o->bytes *= (size_t)ipsb_extent(a, d, o->count[d]);
    }
    if (a->contract && ipsb_is_wanted(a, step)) {
        put_request put = {.a = a, .step = step, .t = ipsb_time_index(a->contract, step)};
        ring *r = NULL;
        ipsb_progress(&b->links, 0);
        code = ipsb_plan_of(b, a, o->offset, o->count, &put.plan);
        if (!code)
            code = ipsb_check_step(b, a, ipsb_mark_of(a, put.plan), step);
        if (!code && !(r = ipsb_ring_of(b, a, step)))
            code = ipsb_fail(b, IPS_BRIDGE_MEMORY, "array %s: no memory", a->name);
        if (!code)
            code = ipsb_prepare(b, &put, r, o->bytes + !o->bytes, &o->slot, &admitted);
    }
    if (!code && !o->slot && !take_scratch(a, o))
        code = ipsb_fail(b, IPS_BRIDGE_MEMORY, "array %s: no memory", a->name);
    if (code) {
        close_open_block(a, o);
        return code;
    }
    *cells = o->slot ? o->slot->memory : o->scratch;
    return IPS_BRIDGE_OK;
}

int ips_bridge_array_acquire(ips_bridge_array *a, int64_t step, const int64_t *offset,
                             const int64_t *extent, void **cells)
{
    ips_bridge *b = a ? a->bridge : NULL;
    if (!b || !cells)
        return IPS_BRIDGE_USAGE;
    step += b->shift;
    ipsb_put_begins(b, a->name, step);
    return ipsb_put_ends(b, acquire_block(a, step, offset, extent, cells));
}

/* Put a block that was computed in a slot. */
static int publish_slot(ips_bridge *b, array *a, const open_block *o)
{
    int64_t strides[MAX_NDIM], own[MAX_NDIM], run = a->itemsize, wanted;
    bool admitted = false, stored = true;
    slot *s = o->slot;
    put_request put = {.a = a, .step = o->step, .t = ipsb_time_index(a->contract, o->step)};
    int code = ipsb_plan_of(b, a, o->offset, o->count, &put.plan);
    if (!code)
        code = ipsb_take_step(b, a, ipsb_mark_of(a, put.plan), o->step);
    if (code) {
        ipsb_release_slot(a, s);
        return code;
    }
    for (int d = a->ndim - 1; d >= 0; d--) {
        strides[d] = run;
        run *= ipsb_extent(a, d, o->count[d]);
    }
    ipsb_begin_step(b, o->step);
    code = ipsb_admit(b, &put, &admitted);
    wanted = ipsb_wanted_bytes(b, a);
    ipsb_count(a, SKIPPED, 0, ipsb_owned_bytes(a, o->offset, o->count) - wanted);
    ipsb_note(b, &put);
    for (size_t i = 0; !code && admitted && stored && i < b->pieces.n; i++) {
        const piece *p = &b->pieces.items[i];
        int64_t at = ipsb_locate(p->cut, a->ndim, strides, own);
        stored = ipsb_slot_store(s, a->ordinal, put.t, p, a->ndim + 1, (size_t)at, own, a->itemsize);
    }
    if (!stored)
        code = ipsb_fail(b, IPS_BRIDGE_MEMORY, "array %s: no memory", a->name);
    if (code || !admitted) {
        ipsb_release_slot(a, s);
        return ipsb_not_sent(b, a, code, wanted);
    }
    ipsb_count(a, DELIVERED, 1, wanted);
    return ipsb_publish(b, s);
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
    if (o->slot && a->bridge->attached) { /* before the memory is the receivers' */
        const attached_calls *further = a->bridge->attached_calls;
        int64_t before = a->bridge->newest;
        further->progress(a->bridge);
        further->put_block(a, o->step, before, o->slot->memory, o->only ? NULL : o->offset,
                           o->only ? NULL : o->count, NULL);
    }
    if (o->slot) {
        if (o->step > a->bridge->newest)
            a->bridge->newest = o->step;
        ipsb_put_begins(a->bridge, a->name, o->step);
        code = ipsb_put_ends(a->bridge, publish_slot(a->bridge, a, o));
    } else
        code = ips_bridge_array_put_block(a, o->step - a->bridge->shift, o->scratch,
                                          o->only ? NULL : o->offset,
                                          o->only ? NULL : o->count, NULL);
    close_open_block(a, o);
    return code;
}

int ips_bridge_array_discard(ips_bridge_array *a, const void *cells)
{
    open_block *o;
    int code = find_open(a, cells, &o);
    if (code)
        return code;
    if (o->slot)
        ipsb_release_slot(a, o->slot);
    close_open_block(a, o);
    return IPS_BRIDGE_OK;
}

/* ---- The same by name -------------------------------------------------------------------------- */

static int acquire(ips_bridge *b, const char *name, int64_t step, const int64_t *offset,
                   const int64_t *extent, void **cells)
{
    array *a;
    int code = ipsb_find_to_put(b, name, step, &a);
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
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: say where the block is",
                         name ? name : "NULL", (long long)step, b->self.rank);
    return acquire(b, name, step, offset, extent, cells);
}

int ips_bridge_publish(ips_bridge *b, const char *name)
{
    array *a;
    int code = ipsb_find_array(b, name, &a);
    return code ? code : ips_bridge_array_publish(a, NULL);
}

int ips_bridge_publish_block(ips_bridge *b, const char *name, const void *cells)
{
    array *a;
    int code = ipsb_find_array(b, name, &a);
    if (!code && !cells)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "publish of array %s: no cells", name);
    return code ? code : ips_bridge_array_publish(a, cells);
}

int ips_bridge_discard(ips_bridge *b, const char *name)
{
    array *a;
    int code = ipsb_find_array(b, name, &a);
    return code ? code : ips_bridge_array_discard(a, NULL);
}

int ips_bridge_discard_block(ips_bridge *b, const char *name, const void *cells)
{
    array *a;
    int code = ipsb_find_array(b, name, &a);
    if (!code && !cells)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "discard of array %s: no cells", name);
    return code ? code : ips_bridge_array_discard(a, cells);
}
