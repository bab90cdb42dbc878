/* Sends what links hold, in the program's own thread. */
#include "ips_flush.h"

int64_t ipsb_patience(const ips_bridge *b, const peer *k, int64_t began)
{
    return (k && k->last_sent > began ? k->last_sent : began) + ipsb_ns(b->contact.step);
}

int ipsb_fail_slow(ips_bridge *b, const peer *k, const char *what)
{
    return ipsb_fail(b, IPS_BRIDGE_DEADLINE,
                     "rank %d: receiver %u at %s:%u did not %s within %g s: its worker may be stopped "
                     "or overloaded",
                     b->self.rank, k ? k->at.ordinal : 0, k ? k->at.host : "?", k ? k->at.port : 0, what,
                     b->contact.step);
}

int ipsb_flush_all(ips_bridge *b)
{
    const int64_t began = ipsb_now();
    for (bool waited = false;; waited = true) {
        const peer *slow = NULL; /* the link that has taken nothing for the longest time */
        for (uint32_t i = 0; i < b->links.n; i++) {
            peer *k = b->links.items[i];
            if (k->state != LINK_OPEN || ipsb_link_idle(k))
                continue;
            if (!waited)
                ipsb_flush(k);
            if (k->state == LINK_OPEN && !k->shm && !ipsb_link_idle(k) &&
                (!slow || k->last_sent < slow->last_sent))
                slow = k;
        }
        if (!slow || b->attached_run) {
            if (waited)
                b->waited_ns += (uint64_t)(ipsb_now() - began);
            return IPS_BRIDGE_OK;
        }
        int64_t deadline = ipsb_patience(b, slow, began);
        if (ipsb_now() >= deadline) {
            b->waited_ns += (uint64_t)(ipsb_now() - began);
            return ipsb_fail_slow(b, slow, "read what was sent");
        }
        ipsb_progress(&b->links, deadline);
    }
}
