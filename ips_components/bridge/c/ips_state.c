/* What makes a simulation end, or go on alone. */
#include "ips_state.h"

int64_t ipsb_ns(double value)
{
    return (int64_t)(value * 1e9);
}

bool ipsb_is_detached(const ips_bridge *b)
{
    return b->fault || b->links.lost[0];
}

int ipsb_check(ips_bridge *b)
{
    if (b->fault && b->fault_abort)
        return ipsb_fail(b, IPS_BRIDGE_LOST, "the run failed: %s", b->fault_text);
    if (b->links.lost[0] && b->contact.abort_on_loss)
        return ipsb_fail(b, IPS_BRIDGE_LOST, "%s", b->links.lost);
    return IPS_BRIDGE_OK;
}

int ipsb_fail_needs_tls(ips_bridge *b, const peer *k)
{
    return ipsb_fail(b, IPS_BRIDGE_REFUSED,
                     "receiver %u at %s:%u: %s, which ranks in C and Fortran cannot speak, and rank "
                     "%d on host %s shares no memory with it: run a Dask worker on that host, or "
                     "write the rank in Python, or set SECURITY = none and encrypt below TCP "
                     "(WireGuard, IPsec)",
                     k->at.ordinal, k->at.host, k->at.port, k->why, b->self.rank, b->self.hostname);
}
