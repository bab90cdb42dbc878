/* Copying wanted cells from the program's memory into slots. */
#ifndef IPS_COPY_H
#define IPS_COPY_H

#include "ips_admit.h"

/* Where a piece lies in the program's array, and the strides of its cells. */
int64_t ipsb_locate(const cut *c, int ndim, const int64_t *strides, int64_t *own);
/* Copy the cells of a piece into a slot and note it there; the bytes that it takes, -1: no memory. */
int64_t ipsb_store(const put_request *o, const piece *p, slot *s, size_t place,
                   const uint8_t *cells, const int64_t *strides);

#endif
