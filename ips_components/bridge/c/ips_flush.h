/* Sends what links hold, in the program's own thread. */
#ifndef IPS_FLUSH_H
#define IPS_FLUSH_H

#include "ips_state.h"

/* Hand what is queued to the kernel. Shared memory needs a few bytes only; over TCP the cells are
 * waited for: no other thread would send them while the program computes. */
int ipsb_flush_all(ips_bridge *b);
/* Until when a link may take nothing: for the time of a step after its last byte, or after `began`. */
int64_t ipsb_patience(const ips_bridge *b, const peer *k, int64_t began);
/* Fail since a receiver, NULL if it is not known, is too slow: `what` it has not done in that time. */
int ipsb_fail_slow(ips_bridge *b, const peer *k, const char *what);

#endif
