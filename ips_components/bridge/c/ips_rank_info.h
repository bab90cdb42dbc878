/* What ranks say of themselves. */
#ifndef IPS_RANK_INFO_H
#define IPS_RANK_INFO_H

#include "ips_state.h"

/* Append what a hello says of this rank, as JSON. */
void ipsb_hello_info(const ips_bridge *b, buffer *out);

#endif
