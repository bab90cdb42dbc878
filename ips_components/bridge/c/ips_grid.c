/* The regular decomposition: the grid of ranks whose edges are nearest to each other. */
#include <stdbool.h>
#include <string.h>

#include "ips_bridge.h"
#include "ips_grid.h"

enum { MAX_EDGES = IPS_BRIDGE_MAX_DIMS + 1 };

typedef struct grid_search {
    int ndim;
    int64_t now[MAX_EDGES], best[MAX_EDGES];
    bool found;
} grid_search;

static bool better(const grid_search *s)
{
    int64_t spread = s->now[0] - s->now[s->ndim - 1], best = s->best[0] - s->best[s->ndim - 1];
    if (!s->found || spread != best)
        return !s->found || spread < best;
    for (int d = 0; d < s->ndim; d++)
        if (s->now[d] != s->best[d])
            return s->now[d] < s->best[d];
    return false;
}

static void factor(grid_search *s, int64_t n, int dim, int64_t at_most)
{
    if (dim == s->ndim - 1) {
        s->now[dim] = n;
        if (n <= at_most && better(s)) {
            memcpy(s->best, s->now, sizeof s->best);
            s->found = true;
        }
        return;
    }
    for (int64_t p = n < at_most ? n : at_most; p >= 1; p--)
        if (n % p == 0) {
            s->now[dim] = p;
            factor(s, n / p, dim + 1, p);
        }
}

void ipsb_dims_create(int size, int ndim, int64_t *grid)
{
    grid_search search = {.ndim = ndim};
    if (ndim < 1)
        return;
    factor(&search, size, 0, size);
    memcpy(grid, search.best, sizeof *grid * (size_t)ndim);
}
