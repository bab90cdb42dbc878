/* Arrays as the program describes them. */
#ifndef IPS_DESCRIBE_H
#define IPS_DESCRIBE_H

#include "ips_state.h"

/* Append what a hello says of this rank, as JSON. */
void ipsb_hello_info(const ips_bridge *b, buffer *out);

#endif
