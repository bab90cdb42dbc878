/* Which receivers may be sent what. */
#ifndef IPS_ADMIT_H
#define IPS_ADMIT_H

#include "ips_state.h"

/* What is put: a block by its plan, or rows. */
typedef struct put_request {
    array *a;
    plan *plan; /* NULL: rows */
    int64_t step, t, rows;
} put_request;

/* Find the pieces (b->pieces); false without memory. */
bool ipsb_find_pieces(ips_bridge *b, const put_request *o);
/* Find the pieces (b->pieces), and wait until all may be sent. */
int ipsb_admit(ips_bridge *b, const put_request *o, bool *admitted);

#endif
