/* Arrays as the program describes them. */
#ifndef IPS_DESCRIBE_H
#define IPS_DESCRIBE_H

#include "ips_state.h"

/* Replace a text by that of a buffer, which is taken over. */
int ipsb_take_text(ips_bridge *b, buffer *out, char **text);

#endif
