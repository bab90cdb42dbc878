/* Messages of receivers. */
#ifndef IPS_DISPATCH_H
#define IPS_DISPATCH_H

#include "ips_state.h"

/* Act on a message; false when the receiver may not send it (see k->why). */
bool ipsb_dispatch(ips_bridge *b, peer *k, const message *m);

#endif
