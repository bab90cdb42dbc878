/* What a rank says about its steps. */
#include "ips_put.h"

#include <math.h>

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
