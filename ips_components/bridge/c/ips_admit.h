/* Which receivers may be sent what. */
#ifndef IPS_ADMIT_H
#define IPS_ADMIT_H

#include "ips_state.h"

/* Level and place of each row that is a block of an adaptive mesh, and the cells of a block. */
struct blocks {
    const int64_t *table, *shape;
    int ndim;
};

/* Rows that lie in several parts; strides of those that have none of their own. */
typedef struct row_source {
    const ips_bridge_rows *parts;
    size_t n_parts;
    const int64_t *strides;
    const int64_t *numbers; /* which of all rows; NULL: the first ones */
} row_source;

/* What is put: a block by its plan, rows by their ids, or rows. */
typedef struct put_request {
    array *a;
    plan *plan;
    int64_t step, t, rows;
    id_plan *ids;
    const row_source *from; /* NULL: one array */
} put_request;

/* Find the pieces (b->pieces); false without memory. */
bool ipsb_find_pieces(ips_bridge *b, const put_request *o);
/* Find the pieces (b->pieces), and wait until all may be sent. */
int ipsb_admit(ips_bridge *b, const put_request *o, bool *admitted);

#endif
