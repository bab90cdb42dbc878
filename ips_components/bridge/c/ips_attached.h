/* Attached runs: further contracts that a running simulation puts into. A rank never waits for one
 * and gets no error of it: what cannot be sent at once is dropped, and what goes wrong ends the
 * attached run only. Each is a bridge of its own, moved a little in every call of the first one. */
#ifndef IPS_ATTACHED_H
#define IPS_ATTACHED_H

#include "ips_admit.h"

/* What the calls of the first bridge have attached runs do. */
extern const attached_calls ipsb_attached_calls;
void ipsb_attached_progress(ips_bridge *b);
/* Say goodbye to all, for a bounded time. */
void ipsb_attached_close(ips_bridge *b, bool aborted, const char *reason);
void ipsb_attached_free(ips_bridge *b);

#endif
