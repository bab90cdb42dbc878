/* Attached runs: joining, putting and leaving, in the calls of the bridge that they hang on. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>

#include "ips_attached.h"
#include "ips_join.h"
#include "ips_life.h"
#include "ips_rows.h"

/* seconds that the end of a simulation waits for attached runs */
static const double CLOSE_WITHIN = 2.0;

/* seconds that a launch waits for the attached runs that it goes on with */
static const double LAUNCH_WITHIN = 5.0;

/* ns from a welcome to the first credit */
static const int64_t CREDIT_GRACE = 50000000;

typedef enum { ASKING, CONNECTING, ACTIVE, LEAVING, OVER } stage;

struct attached {
    attached *next;
    ips_bridge *b; /* its own bridge */
    stage stage;
    char run[RUN_BYTES + 1];
    bool has_first, aborted;
    int64_t first; /* step from which on this rank puts */
    int64_t until; /* ns: the stage is given up */
    char reason[512];
};

static int64_t in_seconds(double seconds)
{
    return ipsb_now() + ipsb_ns(seconds < 1e8 ? seconds : 1e8);
}

static void move_to(attached *t, stage next, double seconds)
{
    t->stage = next;
    t->until = in_seconds(seconds);
}

/* Describe an array to the bridge of an attached run as the program has described it. */
static bool copy_array(ips_bridge *to, const array *from)
{
    array *a;
    size_t numbers = 2 * (size_t)(from->ndim > 0 ? from->ndim : 0) * from->n_boxes;
    if (from->ndim < 0 && !from->declared)
        return true; /* the contract describes it */
    a = ipsb_array_add(to, from->name);
    if (!a)
        return false;
    a->declared = from->declared;
    a->ragged = from->declared && from->ragged;
    a->ndim = from->ndim;
    a->itemsize = from->itemsize;
    a->first = from->first;
    a->every = from->every;
    a->steps = from->steps;
    a->varies = from->varies;
    a->has_halo = from->has_halo;
    a->has_shared = from->has_shared;
    a->by_id = from->declared ? from->by_id : BY_BLOCK;
    memcpy(a->dtype, from->dtype, sizeof a->dtype);
    memcpy(a->block_dtype, from->block_dtype, sizeof a->block_dtype);
    memcpy(a->shape, from->shape, sizeof a->shape);
    memcpy(a->offset, from->offset, sizeof a->offset);
    memcpy(a->count, from->count, sizeof a->count);
    memcpy(a->halo_low, from->halo_low, sizeof a->halo_low);
    memcpy(a->halo_high, from->halo_high, sizeof a->halo_high);
    memcpy(a->shared, from->shared, sizeof a->shared);
    if (from->has_ids) {
        a->ids = malloc(sizeof *a->ids * ((size_t)from->n_ids + 1));
        if (!a->ids)
            return false;
        memcpy(a->ids, from->ids, sizeof *a->ids * (size_t)from->n_ids);
        a->n_ids = from->n_ids;
        a->has_ids = true;
    }
    /* Of a single number the join finds out which rank sends it. */
    a->has_block = from->has_block && from->ndim > 0;
    if (!a->has_block || !numbers)
        return true;
    a->boxes = malloc(sizeof *a->boxes * numbers);
    if (!a->boxes)
        return false;
    memcpy(a->boxes, from->boxes, sizeof *a->boxes * numbers);
    a->n_boxes = from->n_boxes;
    return true;
}

static bool begin(ips_bridge *main, attached *t, const uint8_t *contact, size_t length)
{
    t->b = ipsb_make(main->self.rank, main->self.size);
    if (!t->b)
        return false;
    t->b->attached_run = true;
    t->b->described = main->described;
    t->b->partial = main->partial;
    t->b->newest = main->newest;
    for (size_t i = 0; i < main->n_arrays; i++)
        if (!copy_array(t->b, main->arrays[i]))
            return false;
    if (ipsb_ask_begin(t->b, contact, length))
        return false;
    move_to(t, ASKING, t->b->contact.contract);
    return true;
}

static bool attach(ips_bridge *b, const uint8_t *contact, size_t length)
{
    attached *t;
    bool ended = length == RUN_BYTES; /* only its id: no launch needs to wait for it */
    const uint8_t *run = contact + (ended ? 0 : 40);
    if (!ended && length < 40 + RUN_BYTES)
        return true; /* of no release that this one knows */
    for (t = b->attached; t; t = t->next)
        if (!memcmp(t->run, run, RUN_BYTES)) { /* each receiver says it */
            if (ended && t->stage == ASKING)
                t->stage = OVER;
            return true;
        }
    t = calloc(1, sizeof *t);
    if (!t)
        return true; /* the simulation does without attached runs */
    memcpy(t->run, run, RUN_BYTES);
    t->next = b->attached;
    b->attached = t;
    if (ended || !begin(b, t, contact, length))
        t->stage = OVER;
    return true;
}

/* ---- Moving ------------------------------------------------------------------------------------ */

static void leave(attached *t, bool aborted, const char *reason, double seconds)
{
    ips_bridge *b = t->b;
    if (t->stage != ACTIVE) {
        t->stage = t->stage == LEAVING ? LEAVING : OVER;
        if (t->stage == LEAVING && in_seconds(seconds) < t->until)
            t->until = in_seconds(seconds);
        return;
    }
    t->aborted = aborted;
    snprintf(t->reason, sizeof t->reason, "%s", reason ? reason : "");
    if (b->in_step)
        ipsb_end_step(b, true);
    move_to(t, LEAVING, seconds);
}

static bool drained(const ips_bridge *b)
{
    for (uint32_t i = 0; i < b->links.n; i++) {
        const peer *k = b->links.items[i];
        if (k->state != LINK_CLOSED && (!ipsb_link_idle(k) || k->unacked.first))
            return false;
    }
    return true;
}

/* Whether receivers have answered the goodbye, or none is there to answer. */
static bool is_answered(const ips_bridge *b)
{
    for (uint32_t i = 0; i < b->links.n; i++) {
        if (ipsb_owes_bye(b, b->links.items[i]))
            return false;
    }
    return true;
}

/* Whether all receivers are connected and have given credit, so that no step is dropped for that. */
static bool are_ready(const ips_bridge *b)
{
    for (uint32_t i = 0; i < b->links.n; i++) {
        const peer *k = b->links.items[i];
        bool credit = k->state == LINK_OPEN && ipsb_now() - k->opened_at > CREDIT_GRACE;
        for (int j = 0; j < b->contract.n_arrays && k->state == LINK_OPEN; j++)
            credit |= k->admitted[j] > 0;
        if (k->state != LINK_CLOSED && !credit)
            return false;
    }
    return true;
}

static void move_on(attached *t)
{
    ips_bridge *b = t->b;
    bool late = ipsb_now() >= t->until;
    if (t->stage == OVER)
        return;
    if (t->stage < ACTIVE)
        ipsb_dial_next(b);
    ipsb_progress(&b->links, 0);
    switch (t->stage) {
    case ASKING:
        if (b->contract_frame) {
            if (ipsb_join_asked(b))
                t->stage = OVER;
            else
                move_to(t, CONNECTING, b->contact.connect);
        } else if (late || ipsb_is_detached(b) || b->stop) {
            t->stage = OVER;
        }
        break;
    case CONNECTING:
        for (uint32_t i = 0; i < b->links.n; i++)
            ipsb_link_start(&b->links, b->links.items[i]);
        if (ipsb_home(&b->links) && (late || are_ready(b))) {
            b->joined = b->links.joined = true;
            t->stage = ACTIVE;
        } else if (late || ipsb_is_detached(b)) {
            t->stage = OVER;
        }
        break;
    case ACTIVE:
        if (b->stop || ipsb_is_detached(b))
            leave(t, false, "", b->contact.connect);
        break;
    case LEAVING:
        if (!drained(b) && !late)
            break;
        if (!drained(b))
            ipsb_account_untaken(b);
        ipsb_send_byes(b, t->aborted, t->reason);
        ipsb_progress(&b->links, 0);
        if (is_answered(b) || late)
            t->stage = OVER;
        break;
    default:
        break;
    }
}

static void end(attached *t)
{
    ips_bridge *b = t->b;
    if (!b)
        return;
    b->closed = true;
    b->links.joined = false;
    for (uint32_t i = 0; i < b->links.n; i++)
        ipsb_link_end(b->links.items[i]);
    ipsb_free(b);
    t->b = NULL;
}

void ipsb_attached_progress(ips_bridge *b)
{
    attached **at = &b->attached;
    while (*at) {
        attached *t = *at;
        move_on(t);
        if (t->stage == OVER) {
            *at = t->next;
            end(t);
            free(t);
        } else {
            at = &t->next;
        }
    }
}

static bool wait_for(ips_bridge *b, int n)
{
    int64_t deadline = in_seconds(LAUNCH_WITHIN);
    int seen;
    do { /* those that are over stay in the list, so that each is counted once */
        seen = 0;
        ipsb_progress(&b->links, ipsb_now() + 1000000);
        for (attached *t = b->attached; t; t = t->next) {
            move_on(t);
            seen += t->stage == ACTIVE || t->stage == OVER;
        }
    } while (seen < n && ipsb_now() < deadline);
    return seen >= n;
}

/* ---- Putting ----------------------------------------------------------------------------------- */

/* The array of an attached run that takes a put; NULL: none. */
static array *taker(attached *t, const array *a, int64_t step, int64_t before)
{
    array *mine;
    if (t->stage != ACTIVE)
        return NULL;
    if (!t->has_first) { /* a step that has begun would lack what was put before */
        t->has_first = true;
        t->first = step > before ? step : step + 1;
    }
    mine = step < t->first ? NULL : ipsb_array(t->b, a->name);
    return mine && mine->contract ? mine : NULL;
}

/* Report the wanted steps that this rank had put before it could put them here. */
static void note_passed(array *a, int64_t step, plan *p, id_plan *ids)
{
    ips_bridge *b = a->bridge;
    for (int i = 0; i < a->n_wanted; i++) {
        const progression *w = &a->wanted[i];
        int64_t last_chunk = -1;
        for (int64_t n = 0, s = w->start; n < w->count && s < step; n++, s += w->step) {
            put_request o = {.a = a, .step = s, .t = ipsb_time_index(a->contract, s), .plan = p,
                             .ids = ids};
            if (s < b->first_step) /* which is the account of earlier launches */
                continue;
            if (!ipsb_find_pieces(b, &o))
                return;
            for (size_t j = 0; j < b->pieces.n; j++) {
                const piece *one = &b->pieces.items[j];
                peer *k = ipsb_link_of(&b->links, one->receiver);
                buffer frame = {0};
                if (!k || k->state == LINK_CLOSED || one->chunk == last_chunk)
                    continue;
                last_chunk = one->chunk;
                ipsb_pack_number(&frame, OP_DROPPED, DROPPED_PASSED, a->ordinal, 0,
                                 (uint64_t)one->chunk);
                (void)ipsb_enqueue_frame(k, &frame, true);
            }
        }
    }
}

static void check(attached *t, int code)
{
    if (code)
        leave(t, true, t->b->errors.text, t->b->contact.connect);
}

static void put_block(const array *a, int64_t step, int64_t before, const void *cells,
                      const int64_t *offset, const int64_t *extent, const int64_t *strides)
{
    for (attached *t = a->bridge->attached; t; t = t->next) {
        array *mine = taker(t, a, step, before);
        plan *p = NULL;
        int code;
        if (!mine)
            continue;
        if (!mine->any_put || mine->begun == step) {
            mine->begun = step;
            code = offset && extent ? ipsb_plan_of(t->b, mine, offset, extent, &p) : IPS_BRIDGE_OK;
            p = p ? p : mine->fixed;
            if (!code && p)
                note_passed(mine, step, p, NULL);
        }
        check(t, ips_bridge_array_put_block(mine, step, cells, offset, extent, strides));
    }
}

static void put_rows(const array *a, int64_t step, int64_t before, const void *cells, int64_t rows,
                     const int64_t *strides)
{
    for (attached *t = a->bridge->attached; t; t = t->next) {
        array *mine = taker(t, a, step, before);
        if (!mine)
            continue;
        if (!mine->any_put)
            note_passed(mine, step, NULL, NULL);
        check(t, ips_bridge_array_put_rows(mine, step, cells, rows, strides));
    }
}

static void put_parts(const array *a, int64_t step, int64_t before, const ips_bridge_rows *parts,
                      int n_parts, const int64_t *ids, const blocks *of)
{
    int64_t rows = 0;
    for (int i = 0; i < n_parts; i++)
        rows += parts[i].rows;
    for (attached *t = a->bridge->attached; t; t = t->next) {
        array *mine = taker(t, a, step, before);
        int code = IPS_BRIDGE_OK;
        if (!mine)
            continue;
        if (!mine->any_put) {
            code = mine->by_id ? ipsb_id_plan_of(mine, step, rows, ids) : IPS_BRIDGE_OK;
            if (!code)
                note_passed(mine, step, NULL, mine->by_id ? mine->id_plan : NULL);
        }
        check(t, ipsb_put_parts(mine, step, parts, (size_t)n_parts, ids, of));
    }
}

static void end_step(ips_bridge *b, int64_t step)
{
    for (attached *t = b->attached; t; t = t->next)
        if (t->stage == ACTIVE && t->b->in_step && t->b->step == step)
            ipsb_end_step(t->b, true);
}

static void rewind_all(ips_bridge *b, int64_t step)
{
    for (attached *t = b->attached; t; t = t->next)
        if (t->stage == ACTIVE)
            check(t, ips_bridge_rewind(t->b, step));
}

const attached_calls ipsb_attached_calls = {
    .attach = attach,
    .progress = ipsb_attached_progress,
    .wait = wait_for,
    .put_block = put_block,
    .put_rows = put_rows,
    .put_parts = put_parts,
    .step_end = end_step,
    .rewind = rewind_all,
};

/* ---- Ending ------------------------------------------------------------------------------------ */

void ipsb_attached_close(ips_bridge *b, bool aborted, const char *reason)
{
    int64_t deadline = in_seconds(CLOSE_WITHIN);
    for (attached *t = b->attached; t; t = t->next)
        leave(t, aborted, reason, CLOSE_WITHIN);
    ipsb_attached_progress(b);
    while (b->attached && ipsb_now() < deadline) {
        ipsb_progress(&b->attached->b->links, ipsb_now() + 5000000);
        ipsb_attached_progress(b);
    }
}

void ipsb_attached_free(ips_bridge *b)
{
    while (b->attached) {
        attached *t = b->attached;
        b->attached = t->next;
        end(t);
        free(t);
    }
}
