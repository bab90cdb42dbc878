/* Sends what links hold, in the program's own thread. */
#ifndef IPS_FLUSH_H
#define IPS_FLUSH_H

#include "ips_state.h"

/* Hand what is queued to the kernel. Shared memory needs a few bytes only; over TCP the cells are
 * waited for: no other thread would send them while the program computes. */
int ipsb_flush_all(ips_bridge *b);

#endif
