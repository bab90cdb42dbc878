/* Puts by the name of an array, and of views that know their own shape. */
#include "ips_put.h"

ips_bridge_array *ips_bridge_find(ips_bridge *b, const char *name)
{
    array *a;
    return ipsb_find_array(b, name, &a) ? NULL : a;
}

const char *ips_bridge_array_name(const ips_bridge_array *a)
{
    return a ? a->name : "";
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
    int code = ipsb_find_to_put(b, name, step, &a);
    return code ? code : ips_bridge_array_put_block(a, step, cells, offset, extent, strides);
}

int ips_bridge_put_rows(ips_bridge *b, const char *name, int64_t step, const void *cells,
                        int64_t rows, const int64_t *strides)
{
    array *a;
    int code = ipsb_find_to_put(b, name, step, &a);
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

static int fail_itemsize(const array *a, int64_t step, size_t itemsize)
{
    return ipsb_fail(a->bridge, IPS_BRIDGE_GEOMETRY,
                     "put of array %s at step %lld on rank %d: cells have %zu bytes, those of "
                     "type %s have %lld",
                     a->name, (long long)step, a->bridge->self.rank, itemsize, a->contract->dtype,
                     (long long)a->itemsize);
}

int ips_bridge_array_put_view(ips_bridge_array *a, int64_t step, const void *cells, size_t itemsize,
                              int ndim, const int64_t *extents, const int64_t *strides,
                              const int64_t *offset, const int64_t *count)
{
    ips_bridge *b = a ? a->bridge : NULL;
    int64_t total = 1, expected = 1;
    bool whole = true;
    if (!a)
        return IPS_BRIDGE_USAGE;
    if (ndim < 0 || ndim > IPS_BRIDGE_MAX_DIMS || (ndim && (!extents || !strides)))
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: a view of %d dimensions", a->name,
                         (long long)step, b->self.rank, ndim);
    for (int d = 0; d < ndim; d++) {
        if (extents[d] < 0)
            return ipsb_fail(b, IPS_BRIDGE_GEOMETRY,
                             "put of array %s at step %lld on rank %d: a view of %lld cells along "
                             "dimension %d",
                             a->name, (long long)step, b->self.rank, (long long)extents[d], d);
        total *= extents[d];
    }
    if (!a->contract || !ipsb_is_wanted(a, step + b->shift) || a->ragged || a->by_id)
        return ips_bridge_array_put_block(a, step, cells, offset, count, NULL);
    if (total && (int64_t)itemsize != a->itemsize)
        return fail_itemsize(a, step, itemsize);
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
                         a->name, (long long)step, b->self.rank, (long long)expected,
                         (long long)total);
    return ips_bridge_array_put_block(a, step, cells, offset, count, whole ? strides : NULL);
}

int ips_bridge_put_view(ips_bridge *b, const char *name, int64_t step, const void *cells,
                        size_t itemsize, int ndim, const int64_t *extents, const int64_t *strides)
{
    array *a;
    int code = ipsb_find_to_put(b, name, step, &a);
    return code ? code
                : ips_bridge_array_put_view(a, step, cells, itemsize, ndim, extents, strides, NULL,
                                            NULL);
}

int ips_bridge_put_view_block(ips_bridge *b, const char *name, int64_t step, const void *cells,
                              size_t itemsize, int ndim, const int64_t *extents,
                              const int64_t *strides, const int64_t *offset, const int64_t *count)
{
    array *a;
    int code = ipsb_find_to_put(b, name, step, &a);
    if (!code && (!offset || !count))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "put of array %s at step %lld on rank %d: say where the block is",
                         name, (long long)step, b->self.rank);
    return code ? code
                : ips_bridge_array_put_view(a, step, cells, itemsize, ndim, extents, strides, offset,
                                            count);
}

/* How many rows of an array a view has; -1: they have another shape. */
static int64_t rows_in(const array *a, int ndim, const int64_t *extents, bool packed)
{
    int64_t columns = 1, total = 1;
    bool whole = ndim == a->ndim;
    for (int d = 1; d < a->ndim; d++) {
        columns *= a->contract->shape[d + 1];
        whole = whole && extents[d] == a->contract->shape[d + 1];
    }
    for (int d = 0; d < ndim; d++)
        total *= extents[d];
    if (!total)
        return 0;
    return whole ? extents[0] : packed && columns ? total / columns : -1;
}

int ips_bridge_array_put_rows_view(ips_bridge_array *a, int64_t step, const void *cells,
                                   size_t itemsize, int ndim, const int64_t *extents,
                                   const int64_t *strides, int64_t rows, const int64_t *index,
                                   const int64_t *ids, const int64_t *levels, const int64_t *places)
{
    ips_bridge *b = a ? a->bridge : NULL;
    ips_bridge_rows part = {.cells = cells, .rows = rows, .index = index};
    int64_t needed = rows, lowest = 0;
    bool packed;
    if (!a)
        return IPS_BRIDGE_USAGE;
    if (rows < 0 || ndim < 1 || ndim > IPS_BRIDGE_MAX_DIMS || !extents || !strides || (levels && index) ||
        (levels && ids))
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: %lld rows of a view of %d "
                         "dimensions, with levels or with ids and an index",
                         a->name, (long long)step, b->self.rank, (long long)rows, ndim);
    packed = is_packed(itemsize, ndim, extents, strides);
    part.strides = packed ? NULL : strides;
    if (rows && a->contract && ipsb_is_wanted(a, step + b->shift) && (a->ragged || a->by_id)) {
        int64_t there = rows_in(a, ndim, extents, packed);
        if (there && (int64_t)itemsize != a->itemsize)
            return fail_itemsize(a, step, itemsize);
        if (there < 0 || (levels && ndim != a->ndim))
            return ipsb_fail(b, IPS_BRIDGE_GEOMETRY,
                             "put of array %s at step %lld on rank %d: the rows have another shape "
                             "than those of the array",
                             a->name, (long long)step, b->self.rank);
        for (int64_t i = 0; index && i < rows; i++) {
            needed = i && needed > index[i] ? needed : index[i] + 1;
            lowest = lowest < index[i] ? lowest : index[i];
        }
        if (needed > there || lowest < 0)
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "put of array %s at step %lld on rank %d: %s %lld is put of %lld rows",
                             a->name, (long long)step, b->self.rank, lowest < 0 ? "index" : "row",
                             (long long)(lowest < 0 ? lowest : needed - 1), (long long)there);
    }
    if (levels)
        return ips_bridge_array_put_blocks(a, step, cells, rows, levels, places, part.strides);
    if (ids || index)
        return ips_bridge_array_put_parts_sized(a, step, &part, 1, ids, sizeof part);
    return ips_bridge_array_put_rows(a, step, cells, rows, part.strides);
}
