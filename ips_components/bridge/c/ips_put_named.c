/* Puts by the name of an array, and of views that know their own shape. */
#include "ips_put.h"

ips_bridge_array *ips_bridge_find(ips_bridge *b, const char *name)
{
    array *a;
    return ipsb_find_array(b, name, &a) ? NULL : a;
}

int ips_bridge_array_put(ips_bridge_array *a, int64_t step, const void *cells)
{
    return ips_bridge_array_put_block(a, step, cells, NULL, NULL, NULL);
}

int ips_bridge_put(ips_bridge *b, const char *name, int64_t step, const void *cells)
{
    return ips_bridge_put_block(b, name, step, cells, NULL, NULL, NULL);
}

int ips_bridge_put_block(ips_bridge *b, const char *name, int64_t step, const void *cells,
                         const int64_t *offset, const int64_t *extent, const int64_t *strides)
{
    array *a;
    int code = ipsb_find_array(b, name, &a);
    return code ? code : ips_bridge_array_put_block(a, step, cells, offset, extent, strides);
}

int ips_bridge_put_rows(ips_bridge *b, const char *name, int64_t step, const void *cells,
                        int64_t rows, const int64_t *strides)
{
    array *a;
    int code = ipsb_find_array(b, name, &a);
    return code ? code : ips_bridge_array_put_rows(a, step, cells, rows, strides);
}

/* ---- Views ------------------------------------------------------------------------------------- */

/* Whether strides are those of cells in C order without gaps. */
static bool is_packed(size_t itemsize, int ndim, const int64_t *extents, const int64_t *strides)
{
    int64_t run = (int64_t)itemsize;
    for (int d = ndim - 1; d >= 0; d--) {
        if (extents[d] > 1 && strides[d] != run)
            return false;
        run *= extents[d];
    }
    return true;
}

static int put_view(ips_bridge *b, const char *name, int64_t step, const void *cells,
                    size_t itemsize, int ndim, const int64_t *extents, const int64_t *strides,
                    const int64_t *offset, const int64_t *count)
{
    array *a;
    int64_t total = 1, expected = 1;
    bool whole = true;
    int code = ipsb_find_array(b, name, &a);
    if (code)
        return code;
    if (ndim < 0 || ndim > IPS_BRIDGE_MAX_DIMS || (ndim && (!extents || !strides)))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "put of array %s: a view of %d dimensions", name, ndim);
    for (int d = 0; d < ndim; d++)
        total *= extents[d];
    if (!a->contract || !ipsb_is_wanted(a, step + b->shift) || a->ragged || a->by_id)
        return ips_bridge_array_put_block(a, step, cells, offset, count, NULL);
    if (total && (int64_t)itemsize != a->itemsize)
        return ipsb_fail(b, IPS_BRIDGE_GEOMETRY,
                         "put of array %s at step %lld on rank %d: cells have %zu bytes, those of "
                         "type %s have %lld",
                         name, (long long)step, b->self.rank, itemsize, a->contract->dtype,
                         (long long)a->itemsize);
    for (int d = 0; d < a->ndim; d++) {
        int64_t extent = ipsb_extent(a, d, count ? count[d] : a->count[d]);
        expected *= extent;
        whole = whole && d < ndim && extents[d] == extent;
    }
    whole = whole && ndim == a->ndim;
    /* A view of another shape is fine if it is as many cells in a row: a workspace, for instance. */
    if ((count || a->fixed) && !whole &&
        (total != expected || !is_packed(itemsize, ndim, extents, strides)))
        return ipsb_fail(b, IPS_BRIDGE_GEOMETRY,
                         "put of array %s at step %lld on rank %d: expected a block of %lld cells "
                         "(halo included), got %lld in another shape",
                         name, (long long)step, b->self.rank, (long long)expected, (long long)total);
    return ips_bridge_array_put_block(a, step, cells, offset, count, whole ? strides : NULL);
}

int ips_bridge_put_view(ips_bridge *b, const char *name, int64_t step, const void *cells,
                        size_t itemsize, int ndim, const int64_t *extents, const int64_t *strides)
{
    return put_view(b, name, step, cells, itemsize, ndim, extents, strides, NULL, NULL);
}

int ips_bridge_put_view_block(ips_bridge *b, const char *name, int64_t step, const void *cells,
                              size_t itemsize, int ndim, const int64_t *extents,
                              const int64_t *strides, const int64_t *offset, const int64_t *count)
{
    if (b && (!offset || !count))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "put of array %s: say where the block is",
                         name ? name : "NULL");
    return put_view(b, name, step, cells, itemsize, ndim, extents, strides, offset, count);
}
