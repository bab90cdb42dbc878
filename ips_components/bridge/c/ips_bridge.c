/* The bridge as a whole: opening, values from the analysis, ending. */
#include "ips_attached.h"
#include "ips_feedback.h"
#include "ips_life.h"
#include "ips_put.h"

int ips_bridge_open(ips_bridge **out, int rank, int size)
{
    ips_bridge *b;
    if (!out)
        return IPS_BRIDGE_USAGE;
    *out = NULL;
    if (size < 1 || rank < 0 || rank >= size)
        return IPS_BRIDGE_USAGE;
    b = ipsb_make(rank, size);
    if (!b)
        return IPS_BRIDGE_MEMORY;
    b->attached_calls = &ipsb_attached_calls;
    *out = b;
    return IPS_BRIDGE_OK;
}

/* ---- Waiting and values ------------------------------------------------------------------------ */

static int check_open(ips_bridge *b)
{
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!b->joined || b->closed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "the bridge is %s",
                         b->closed ? "closed" : "not joined yet");
    return IPS_BRIDGE_OK;
}

int ips_bridge_progress(ips_bridge *b)
{
    int code = check_open(b);
    if (code)
        return code;
    ipsb_progress(&b->links, 0);
    if (b->attached)
        ipsb_attached_progress(b);
    return ipsb_check(b);
}

int ips_bridge_wait(ips_bridge *b, double timeout)
{
    int code = check_open(b);
    if (code)
        return code;
    if (ipsb_drain(b, timeout < 0 ? b->contact.drain : timeout))
        return IPS_BRIDGE_OK;
    code = ipsb_check(b);
    return code ? code
                : ipsb_fail(b, IPS_BRIDGE_INCOMPLETE,
                            "rank %d: receivers have not taken all data", b->self.rank);
}

int ips_bridge_should_stop(ips_bridge *b, int *stop)
{
    int code = check_open(b);
    if (stop)
        *stop = 0;
    if (code)
        return code;
    if (!stop)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "there is no place for the answer");
    ipsb_progress(&b->links, 0);
    *stop = b->stop;
    return IPS_BRIDGE_OK;
}

/* Copy as much of a structure as the program knows; what it knows beyond is zero. */
static void give(void *to, size_t room, const void *from, size_t size)
{
    memset(to, 0, room);
    memcpy(to, from, room < size ? room : size);
}

int64_t ips_bridge_first_step(const ips_bridge *b)
{
    return b ? b->first_step : 0;
}

int ips_bridge_receive_sized(ips_bridge *b, const char *name, int64_t step, double timeout,
                             ips_bridge_value *value, size_t size)
{
    int64_t deadline;
    int code = check_open(b);
    if (code)
        return code;
    if (b->self.rank != 0 || !name || !value)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "the analysis talks to rank 0 only: receive there, and broadcast");
    deadline = (int64_t)((timeout < 0 ? b->contact.step : timeout < 1e8 ? timeout : 1e8) * 1e9);
    deadline += ipsb_now();
    if (step < INT64_MAX - b->shift)
        step += b->shift;
    ipsb_progress(&b->links, 0);
    for (;;) {
        const feedback *f = ipsb_feedback(b, name, step, timeout != 0 && step != INT64_MAX);
        if (f) {
            ips_bridge_value found = {f->step - b->shift, f->kind,  f->ndim, f->shape,
                                      f->count, f->bytes, f->data};
            give(value, size, &found, sizeof found);
            return IPS_BRIDGE_OK;
        }
        if (timeout != 0 && b->stop && !b->fault)
            return ipsb_fail(b, IPS_BRIDGE_STOPPED,
                             "no value %s will come: the analysis has stopped the run", name);
        if ((code = ipsb_check(b)))
            return code;
        if (timeout != 0 && b->no_more && !ipsb_is_detached(b))
            return ipsb_fail(b, IPS_BRIDGE_STOPPED,
                             "no value %s will come: the analysis has all its results", name);
        if (timeout != 0 && b->alone)
            return ipsb_fail(b, IPS_BRIDGE_STOPPED, "no value %s will come: %s", name,
                             b->links.lost);
        if (timeout != 0 && ipsb_is_detached(b))
            return ipsb_fail(b, IPS_BRIDGE_LOST, "no value %s will come, the analysis is gone: %s",
                             name, b->fault ? b->fault_text : b->links.lost);
        if (timeout == 0 || ipsb_now() >= deadline)
            return ipsb_fail(b, IPS_BRIDGE_NOTHING,
                             "no value %s came from the analysis for this step", name);
        ipsb_progress(&b->links, deadline);
    }
}

int ips_bridge_receive_doubles(ips_bridge *b, const char *name, int64_t step, double timeout,
                               double *values, int64_t capacity, int64_t *count)
{
    ips_bridge_value value;
    int code = ips_bridge_receive(b, name, step, timeout, &value);
    if (code)
        return code;
    if (!values || !count || value.kind > IPS_BRIDGE_INTEGER || capacity < 0 ||
        value.count > (uint64_t)capacity)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "value %s has %zu %s, there is room for %lld numbers", name, value.count,
                         value.kind > IPS_BRIDGE_INTEGER ? "text" : "numbers", (long long)capacity);
    for (size_t i = 0; i < value.count; i++)
        values[i] = value.kind == IPS_BRIDGE_DOUBLE ? ((const double *)value.data)[i]
                                                    : (double)((const int64_t *)value.data)[i];
    *count = (int64_t)value.count;
    return IPS_BRIDGE_OK;
}

/* ---- Ending ------------------------------------------------------------------------------------ */

/* Send the goodbye, and wait for the answers: they do so when all that was put has arrived. If
 * one of them dies meanwhile, this rank is there to send its chunks to another one. Returns whether
 * any has answered. */
static bool wait_for_bye_acks(ips_bridge *b, bool aborted, const char *reason)
{
    int64_t deadline = ipsb_now() + (int64_t)(b->contact.connect * 1e9);
    ipsb_send_byes(b, aborted, reason);
    for (;;) {
        bool waiting = false, answered = false, open = false, returned = false;
        for (uint32_t i = 0; i < b->links.n; i++) {
            const peer *k = b->links.items[i];
            bool is_open = k->state == LINK_OPEN;
            answered |= k->bye_acked;
            open |= is_open;
            returned |= is_open && !k->bye_sent; /* a link that had broken */
            waiting |= ipsb_owes_bye(b, k);
        }
        if ((!waiting && answered) || (!open && ipsb_is_detached(b)) || ipsb_now() >= deadline)
            return answered;
        if (returned)
            ipsb_send_byes(b, aborted, reason);
        ipsb_progress(&b->links, deadline);
    }
}

int ips_bridge_close(ips_bridge *b, int aborted, const char *reason)
{
    bool drained, answered;
    int code = IPS_BRIDGE_OK;
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (b->closed)
        return IPS_BRIDGE_OK;
    if (!b->joined) {
        b->closed = true;
        ipsb_links_free(&b->links);
        return IPS_BRIDGE_OK;
    }
    ipsb_attached_close(b, aborted != 0, reason);
    if (b->in_step)
        ipsb_end_step(b, true);
    drained = ipsb_drain(b, aborted ? 1.0 : b->contact.drain);
    if (!drained)
        ipsb_account_untaken(b);
    answered = wait_for_bye_acks(b, aborted != 0, reason);
    b->closed = true;
    b->links.joined = false;
    for (uint32_t i = 0; i < b->links.n; i++)
        ipsb_link_end(b->links.items[i]);
    if (aborted || (drained && answered))
        return code;
    code = ipsb_check(b);
    if (code || drained || ipsb_is_detached(b))
        return code;
    return ipsb_fail(b, IPS_BRIDGE_INCOMPLETE,
                     "rank %d: receivers did not take all data within %g s of the end; what is "
                     "missing is accounted as lost",
                     b->self.rank, b->contact.drain);
}

void ips_bridge_free(ips_bridge *b)
{
    if (!b)
        return;
    ipsb_attached_free(b);
    ipsb_free(b);
}

/* ---- Statistics -------------------------------------------------------------------------------- */

int ips_bridge_statistics_sized(ips_bridge *b, const char *name, ips_bridge_account *account,
                                size_t size)
{
    ips_bridge_account found;
    uint64_t numbers[COUNTERS];
    const array *a;
    if (!b)
        return IPS_BRIDGE_USAGE;
    a = name ? ipsb_array(b, name) : NULL;
    if (!a || !account)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s is not known", name ? name : "NULL");
    ipsb_counters(a, numbers);
    memcpy(found.blocks, numbers + 1, sizeof found.blocks);
    memcpy(found.bytes, numbers + 6, sizeof found.bytes);
    give(account, size, &found, sizeof found);
    return IPS_BRIDGE_OK;
}

int ips_bridge_is_alone(const ips_bridge *b)
{
    return b && b->alone;
}

double ips_bridge_waited(const ips_bridge *b)
{
    return b ? (double)b->waited_ns / 1e9 : 0;
}

const char *ips_bridge_lost(const ips_bridge *b)
{
    if (!b || b->alone || !ipsb_is_detached(b))
        return NULL;
    return b->fault ? b->fault_text : b->links.lost;
}

int ips_bridge_lanes(const ips_bridge *b, int *shm, int *tcp)
{
    if (!b || !shm || !tcp)
        return IPS_BRIDGE_USAGE;
    *shm = *tcp = 0;
    for (uint32_t i = 0; i < b->links.n; i++)
        if (b->links.items[i]->state == LINK_OPEN)
            ++*(b->links.items[i]->shm ? shm : tcp);
    return IPS_BRIDGE_OK;
}
