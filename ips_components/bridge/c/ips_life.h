/* A bridge from its memory to its last message. */
#ifndef IPS_LIFE_H
#define IPS_LIFE_H

#include "ips_state.h"

ips_bridge *ipsb_make(int rank, int size); /* NULL: no memory */
void ipsb_free(ips_bridge *b);
/* Send the goodbye to all receivers that have not got it; move what no receiver took from delivered to lost. */
void ipsb_send_byes(ips_bridge *b, bool aborted, const char *reason);
void ipsb_account_untaken(ips_bridge *b);
/* Whether a receiver has yet to answer the goodbye. A broken link is waited for, since its receiver
 * would count the rank as lost, unless the receiver has ended. */
bool ipsb_owes_bye(const ips_bridge *b, const peer *k);

#endif
