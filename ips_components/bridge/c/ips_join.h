/* Asking for a contract and joining, in parts that do not wait: for attached runs. */
#ifndef IPS_JOIN_H
#define IPS_JOIN_H

#include "ips_state.h"

/* Take a contact, and begin to ask for the contract; a code. */
int ipsb_ask_begin(ips_bridge *b, const uint8_t *contact, size_t length);
/* Dial the next receiver if it is time to. */
void ipsb_dial_next(ips_bridge *b);
/* Take the contract that came for an answer, and begin to connect for data; a code. */
int ipsb_join_asked(ips_bridge *b);

#endif
