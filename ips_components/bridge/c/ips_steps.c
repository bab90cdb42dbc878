/* What a rank says about its steps. */
#define _GNU_SOURCE
#include "ips_put.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

/* ns between polls of the sockets while nothing is wanted */
static const int64_t POLL_INTERVAL = 50000000;
/* ns between two signs of a rank that puts only what is not wanted */
static const int64_t SIGN_INTERVAL = 1000000000;
/* instead of a step: none has ended */
static const int64_t NO_STEP = INT64_MIN;

/* ns; the clock's resolution is some ms, which is enough here and costs less. */
static int64_t coarse_now(void)
{
    struct timespec coarse;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &coarse);
#else
    clock_gettime(CLOCK_MONOTONIC, &coarse);
#endif
    return coarse.tv_sec * (int64_t)1000000000 + coarse.tv_nsec;
}

/* Send the account, with the step that has ended, or NO_STEP and the steps that are behind: these also
 * when the analysis has failed, for clients that attach. */
static void send_account(ips_bridge *b, int64_t step, bool now)
{
    size_t n = 0;
    peer *k = ipsb_home(&b->links);
    buffer frame = {0};
    uint64_t *counters;
    if (b->links.lost[0] || (b->fault && step > NO_STEP / 2) || !k ||
        !(counters = malloc(sizeof *counters * COUNTERS * (b->n_agreed + 1))))
        return;
    b->last_account = coarse_now();
    for (size_t i = 0; i < b->n_agreed; i++)
        if (b->agreed[i])
            ipsb_counters(b->agreed[i], counters + COUNTERS * n++);
    ipsb_pack_step_end(&frame, step, b->waited_ns, counters, (uint32_t)n);
    free(counters);
    if (ipsb_enqueue_frame(k, &frame, false) && now)
        ipsb_flush(k);
}

void ipsb_begin_step(ips_bridge *b, int64_t step)
{
    if (b->in_step && b->step != step)
        ipsb_end_step(b, false); /* it travels with the first piece of the next step */
    b->in_step = true;
    b->step = step;
}

void ipsb_end_step(ips_bridge *b, bool now)
{
    b->in_step = false;
    send_account(b, b->step, now);
}

void ipsb_poll_if_due(ips_bridge *b, int64_t step)
{
    int64_t now = coarse_now();
    if (now - b->last_poll < POLL_INTERVAL)
        return;
    b->last_poll = now;
    if (!b->last_account)
        b->last_account = now;
    if (now - b->last_account >= SIGN_INTERVAL) {
        if (b->in_step && step > b->step && !b->fault)
            ipsb_end_step(b, true);
        else
            send_account(b, NO_STEP + (step > 0 ? step : 0), true);
    }
    ipsb_progress(&b->links, 0);
}

int ips_bridge_step_end(ips_bridge *b, int64_t step)
{
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!b->joined || b->closed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "the bridge is not open");
    step += b->shift;
    if (!b->in_step) {
        b->in_step = true;
        b->step = step;
    }
    if (b->step == step)
        ipsb_end_step(b, true);
    ipsb_progress(&b->links, 0);
    if (b->attached) {
        b->attached_calls->step_end(b, step);
        b->attached_calls->progress(b);
    }
    return ipsb_check(b);
}

static bool is_wanted_of_any(const ips_bridge *b, int64_t step)
{
    for (size_t i = 0; i < b->n_arrays; i++)
        if (b->arrays[i]->contract && ipsb_is_wanted(b->arrays[i], step))
            return true;
    return false;
}

int ips_bridge_step_time(ips_bridge *b, int64_t step, double time)
{
    buffer frame = {0};
    peer *home;
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!b->joined || b->closed)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "the bridge is not open");
    step += b->shift;
    if (!isfinite(time))
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "step %lld has the physical time %g; it must be finite", (long long)step,
                         time);
    if ((b->any_timed && b->timed == step) || !is_wanted_of_any(b, step))
        return IPS_BRIDGE_OK;
    b->any_timed = true;
    b->timed = step;
    home = ipsb_home(&b->links);
    if (ipsb_is_detached(b) || !home)
        return IPS_BRIDGE_OK;
    ipsb_pack_step_time(&frame, step, time);
    if (!ipsb_enqueue_frame(home, &frame, false)) /* it leaves with what is put next */
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for a message");
    return IPS_BRIDGE_OK;
}
