/* Arrays that are indexed by global ids: which of a rank's rows go where, as
 * ips_components/model/by_id.py computes it. */
#ifndef IPS_IDS_H
#define IPS_IDS_H

#include "ips_plan.h"

/* What a rank sends of its rows to one chunk in space: `n` rows, from `first` on in the tables of the
 * plan. As a cut it is so many bytes: the cells, then the positions. */
typedef struct id_cut {
    cut head; /* first: pieces name it */
    progression dst;
    size_t first;
    int64_t n, row_bytes;
    progression columns[MAX_NDIM]; /* of a row: all dimensions of space but the first */
} id_cut;

typedef struct id_plan {
    const agreement *contract;
    int64_t n, *ids;        /* as given */
    int64_t *sorted, *rows; /* ascending, and the row of each */
    bool *active, *now;     /* wanted selections of the steps that the cuts are for; of this step */
    bool any;
    id_cut *cuts;
    size_t n_cuts, room_cuts;
    int64_t *chosen; /* rows, and their positions in their chunks */
    uint32_t *positions;
    size_t n_chosen;
} id_plan;

/* Plan for ids; NULL, with a text that says why, when they cannot be. */
id_plan *ipsb_ids_make(const agreement *a, int64_t n, const int64_t *ids, char *why, size_t room);
void ipsb_ids_free(id_plan *p);
/* Fill `out` with a piece for each chunk that is needed at time index t; false: no memory. */
bool ipsb_ids_at(id_plan *p, int64_t t, pieces *out);

#endif
