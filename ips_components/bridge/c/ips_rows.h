/* Puts of rows that are not those of the program's calls alone. */
#ifndef IPS_ROWS_H
#define IPS_ROWS_H

#include "ips_put.h"

/* Rows of several parts, into this run alone; of blocks the contract may want some. */
int ipsb_put_parts(array *a, int64_t step, const ips_bridge_rows *parts, size_t n_parts,
                   const int64_t *ids, const blocks *of);
/* Plan rows with these ids, or with those that were described; a code. */
int ipsb_id_plan_of(array *a, int64_t step, int64_t rows, const int64_t *ids);

#endif
