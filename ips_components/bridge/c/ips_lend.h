/* Blocks that are sent from the program's own memory. */
#ifndef IPS_LEND_H
#define IPS_LEND_H

#include "ips_admit.h"

/* Whether a put may send the program's own memory, as far as is known before its pieces are. */
bool ipsb_may_lend(const ips_bridge *b, const put_request *o, const int64_t *strides, int64_t total,
                   int64_t began);
/* Whether it does: cells that are worth it, for receivers over TCP only. */
bool ipsb_lends(const ips_bridge *b, int64_t bytes);
/* Send the pieces, which are admitted, and wait until they are taken. False in `taken` with code 0:
 * the analytics are lost, or the analysis has stopped. */
int ipsb_lend(ips_bridge *b, const put_request *o, const uint8_t *cells, const int64_t *strides,
              bool *taken);

#endif
