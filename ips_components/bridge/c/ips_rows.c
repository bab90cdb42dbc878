/* Puts of rows: of ragged arrays and of those that are indexed by ids, from wherever they lie. */
#include <inttypes.h>
#include <stdlib.h>

#include "ips_flush.h"
#include "ips_rows.h"

/* Rows, into this run alone. */
static int put_rows(array *named, int64_t step, const void *cells, int64_t rows,
                    const int64_t *strides)
{
    int64_t own[MAX_NDIM], total = rows;
    array *a = NULL;
    put_request o = {0};
    ips_bridge *b = named->bridge;
    int code;
    if (rows < 0 || rows > (int64_t)1 << 48 || (rows && !cells))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "%lld rows, or no cells", (long long)rows);
    step += b->shift;
    code = ipsb_begin_put(named, step, true, &a);
    if (code || !a) {
        if (!code && (named->ragged || named->by_id)) {
            for (int d = 1; d < named->ndim; d++)
                total *= named->contract ? named->contract->shape[d + 1] : named->shape[d];
            named->bytes[SKIPPED] += (uint64_t)(total * named->itemsize);
        }
        return code;
    }
    if (!a->ragged)
        return ipsb_fail_kind(b, a);
    if ((code = ipsb_check_step(b, a, &a->own, step)))
        return code;
    for (int d = a->ndim - 1; d >= 0; d--) {
        own[d] = d == a->ndim - 1 ? a->itemsize : own[d + 1] * a->contract->shape[d + 2];
        total *= d ? a->contract->shape[d + 1] : 1;
    }
    o = (put_request){.a = a, .step = step, .t = ipsb_time_index(a->contract, step), .rows = rows};
    ipsb_begin_step(b, step);
    ipsb_progress(&b->links, 0);
    if (rows)
        return ipsb_send(b, &o, cells, strides ? strides : own, total * a->itemsize);

    bool admitted;
    buffer frame = {0};
    code = ipsb_admit(b, &o, &admitted);
    if (!code)
        ipsb_mark_step(a, &a->own, step);
    if (!code && !b->pieces.n) {
        ipsb_count(a, SKIPPED, 1, 0);
        return code;
    }
    if (!code)
        ipsb_note(b, &o);
    if (code || !admitted)
        return ipsb_not_sent(b, a, code, 0);
    const piece *p = &b->pieces.items[0];
    ipsb_pack_rows(&frame, a->ordinal, 0, (uint64_t)p->chunk, (uint64_t)o.t, 0);
    (void)ipsb_note_moved(a, p->chunk, o.t, NULL); /* there is no slot that would remember it */
    ipsb_count(a, DELIVERED, 1, 0);
    if (!ipsb_enqueue_frame(ipsb_link_of(&b->links, p->receiver), &frame, true))
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for a message");
    return ipsb_flush_all(b);
}

int ipsb_id_plan_of(array *a, int64_t step, int64_t rows, const int64_t *ids)
{
    ips_bridge *b = a->bridge;
    char why[256];
    id_plan *p = a->id_plan;
    if (!ids && !a->has_ids)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: the array is indexed by ids; say "
                         "those of its rows by ips_bridge_put_ids, or describe them by "
                         "ips_bridge_ids",
                         a->name, (long long)step, b->self.rank);
    if (!ids && rows != a->n_ids)
        return ipsb_fail(b, IPS_BRIDGE_GEOMETRY,
                         "put of array %s at step %lld on rank %d: %lld rows with %lld ids; each row "
                         "has one",
                         a->name, (long long)step, b->self.rank, (long long)rows,
                         (long long)a->n_ids);
    ids = ids ? ids : a->ids;
    if (p && p->n == rows && (!rows || !memcmp(p->ids, ids, sizeof *ids * (size_t)rows)))
        return IPS_BRIDGE_OK;
    p = ipsb_ids_make(a->contract, rows, ids, why, sizeof why);
    if (!p)
        return ipsb_fail(b, IPS_BRIDGE_GEOMETRY, "put of array %s at step %lld on rank %d: %s",
                         a->name, (long long)step, b->self.rank, why);
    ipsb_ids_free(a->id_plan);
    a->id_plan = p;
    return IPS_BRIDGE_OK;
}

/* Numbers of the blocks that a contract wants, of `n` with level and place; NULL: no memory. */
static int64_t *choose(const agreement *c, const blocks *of, int64_t n, int64_t *kept)
{
    int64_t *chosen = malloc(sizeof *chosen * ((size_t)n + 1));
    *kept = 0;
    for (int64_t i = 0; chosen && i < n; i++) {
        const int64_t *one = of->table + i * (1 + of->ndim);
        int64_t scale = 1;
        bool wanted = one[0] >= c->level_low && one[0] < c->level_high;
        for (int64_t level = 0; wanted && level < one[0]; level++)
            scale *= c->refinement;
        for (int d = 0; d < c->box_ndim && d < of->ndim && wanted; d++)
            wanted = one[1 + d] < c->box[d][1] * scale &&
                     one[1 + d] + of->shape[d] > c->box[d][0] * scale;
        if (wanted)
            chosen[(*kept)++] = i;
    }
    return chosen;
}

int ipsb_put_parts(array *named, int64_t step, const ips_bridge_rows *parts, size_t n_parts,
                   const int64_t *ids, const blocks *of)
{
    ips_bridge *b = named->bridge;
    int64_t strides[MAX_NDIM], rows = 0, total;
    array *a = NULL;
    row_source from = {parts, n_parts, strides, NULL};
    int64_t *chosen = NULL;
    put_request o = {0};
    int code;
    for (size_t i = 0; i < n_parts; i++) {
        if (parts[i].rows < 0 || parts[i].rows > (int64_t)1 << 48 ||
            (parts[i].rows && !parts[i].cells))
            return ipsb_fail(b, IPS_BRIDGE_USAGE, "%lld rows, or no cells", (long long)parts[i].rows);
        rows += parts[i].rows;
    }
    step += b->shift;
    code = ipsb_begin_put(named, step, true, &a);
    total = rows * named->itemsize;
    for (int d = 1; d < named->ndim; d++)
        total *= named->contract ? named->contract->shape[d + 1] : named->shape[d];
    if (code || !a) {
        if (!code)
            named->bytes[SKIPPED] += (uint64_t)total;
        return code;
    }
    if (!a->ragged && !a->by_id)
        return ipsb_fail_kind(b, a);
    if (ids && !a->by_id)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s is not indexed by ids", a->name);
    if (a->by_id && (code = ipsb_id_plan_of(a, step, rows, ids)))
        return code;
    if (of && a->contract->has_choice) {
        int64_t all = rows;
        chosen = choose(a->contract, of, all, &rows);
        if (!chosen)
            return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory");
        ipsb_count(a, SKIPPED, 0, all ? total / all * (all - rows) : 0);
        total = all ? total / all * rows : 0;
        from.numbers = chosen;
    }
    if (!rows)
        free(chosen);
    if (a->ragged && !rows)
        return put_rows(a, step - b->shift, NULL, 0, NULL);
    if ((code = ipsb_check_step(b, a, &a->own, step))) {
        free(rows ? chosen : NULL);
        return code;
    }
    for (int d = a->ndim - 1; d >= 0; d--)
        strides[d] = d == a->ndim - 1 ? a->itemsize : strides[d + 1] * a->contract->shape[d + 2];
    o = (put_request){.a = a, .step = step, .t = ipsb_time_index(a->contract, step), .rows = rows,
                      .ids = a->by_id ? a->id_plan : NULL, .from = &from};
    ipsb_begin_step(b, step);
    ipsb_progress(&b->links, 0);
    code = ipsb_send(b, &o, NULL, strides, total);
    free(rows ? chosen : NULL);
    return code;
}

static int put_parts(array *a, int64_t step, const ips_bridge_rows *parts, size_t n_parts,
                     const int64_t *ids, const blocks *of)
{
    ips_bridge *b = a->bridge;
    ipsb_put_begins(b, a->name, step + b->shift);
    int code = ipsb_put_ends(b, ipsb_put_parts(a, step, parts, n_parts, ids, of));
    if (!code) {
        int64_t before = ipsb_note_newest(b, step + b->shift);
        if (b->attached)
            b->attached_calls->put_parts(a, step + b->shift, before, parts, (int)n_parts, ids, of);
    }
    return code;
}

/* Rows of an array with levels, put without any: right where there are none, else refused. */
static int without_levels(array *a, int64_t step, int64_t rows)
{
    return ips_bridge_array_put_blocks(a, step, NULL, rows, NULL, NULL, NULL);
}

int ips_bridge_array_put_parts_sized(ips_bridge_array *a, int64_t step, const ips_bridge_rows *parts,
                                     int n_parts, const int64_t *ids, size_t size)
{
    ips_bridge_rows *known;
    int code;
    if (!a)
        return IPS_BRIDGE_USAGE;
    if (n_parts < 0 || (n_parts && !parts) || !size)
        return ipsb_fail(a->bridge, IPS_BRIDGE_USAGE, "put of array %s at step %lld on rank %d: %d parts",
                         a->name, (long long)step, a->bridge->self.rank, n_parts);
    int64_t rows = 0;
    /* Programs of another version have larger or smaller structures. */
    known = calloc((size_t)n_parts + 1, sizeof *known);
    if (!known)
        return ipsb_fail(a->bridge, IPS_BRIDGE_MEMORY, "put of array %s at step %lld on rank %d: no memory",
                         a->name, (long long)step, a->bridge->self.rank);
    for (int i = 0; i < n_parts; i++) {
        memcpy(&known[i], (const char *)parts + (size_t)i * size,
               size < sizeof *known ? size : sizeof *known);
        rows = rows ? rows : known[i].rows;
    }
    code = a->table ? without_levels(a, step, rows)
                    : put_parts(a, step, known, (size_t)n_parts, ids, NULL);
    free(known);
    return code;
}

int ips_bridge_array_put_ids(ips_bridge_array *a, int64_t step, const void *cells, int64_t rows,
                             const int64_t *ids, const int64_t *strides)
{
    ips_bridge_rows part = {.cells = cells, .rows = rows, .strides = strides};
    int64_t none = 0;
    if (!a)
        return IPS_BRIDGE_USAGE;
    return put_parts(a, step, &part, 1, rows || a->has_ids ? ids : &none, NULL);
}

int ips_bridge_array_put_rows(ips_bridge_array *named, int64_t step, const void *cells,
                              int64_t rows, const int64_t *strides)
{
    ips_bridge *b = named ? named->bridge : NULL;
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (named->by_id)
        return ips_bridge_array_put_ids(named, step, cells, rows, NULL, strides);
    if (named->table)
        return without_levels(named, step, rows);
    ipsb_put_begins(b, named->name, step + b->shift);
    int code = ipsb_put_ends(b, put_rows(named, step, cells, rows, strides));
    if (!code) {
        int64_t before = ipsb_note_newest(b, step + b->shift);
        if (b->attached)
            b->attached_calls->put_rows(named, step + b->shift, before, cells, rows, strides);
    }
    return code;
}

int ips_bridge_put_parts_sized(ips_bridge *b, const char *name, int64_t step,
                               const ips_bridge_rows *parts, int n_parts, const int64_t *ids,
                               size_t size)
{
    array *a;
    int code = ipsb_find_to_put(b, name, step, &a);
    return code ? code : ips_bridge_array_put_parts_sized(a, step, parts, n_parts, ids, size);
}

int ips_bridge_put_ids(ips_bridge *b, const char *name, int64_t step, const void *cells, int64_t rows,
                       const int64_t *ids, const int64_t *strides)
{
    array *a;
    int code = ipsb_find_to_put(b, name, step, &a);
    return code ? code : ips_bridge_array_put_ids(a, step, cells, rows, ids, strides);
}

int ips_bridge_array_put_blocks(ips_bridge_array *a, int64_t step, const void *cells, int64_t n,
                                const int64_t *levels, const int64_t *places, const int64_t *strides)
{
    ips_bridge_rows part = {.cells = cells, .rows = n, .strides = strides}, numbers = {.rows = n};
    int64_t *table;
    blocks of = {0};
    int code = IPS_BRIDGE_OK, ndim;
    if (!a)
        return IPS_BRIDGE_USAGE;
    ndim = a->ndim - 1;
    if (!a->table && (a->contract || a->declared))
        return ipsb_fail(a->bridge, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: it has no levels; describe it by "
                         "ips_bridge_levels, or say LEVELS in its section of the config",
                         a->name, (long long)step, a->bridge->self.rank);
    if (n < 0 || n > (int64_t)1 << 40 || (n && (!levels || !places)))
        return ipsb_fail(a->bridge, IPS_BRIDGE_USAGE,
                         "put of array %s at step %lld on rank %d: say level and place of each of "
                         "%lld blocks",
                         a->name, (long long)step, a->bridge->self.rank, (long long)n);
    if (!a->table) /* not in any contract */
        return put_parts(a, step, &part, 1, NULL, NULL);
    table = malloc(sizeof *table * ((size_t)n * (size_t)(1 + ndim) + 1));
    if (!table)
        return ipsb_fail(a->bridge, IPS_BRIDGE_MEMORY, "put of array %s at step %lld on rank %d: no memory",
                         a->name, (long long)step, a->bridge->self.rank);
    for (int64_t i = 0; i < n && !code; i++) {
        bool fits = levels[i] >= 0 && levels[i] < a->levels;
        table[i * (1 + ndim)] = levels[i];
        for (int d = 0; d < ndim; d++) {
            table[i * (1 + ndim) + 1 + d] = places[i * ndim + d];
            fits &= places[i * ndim + d] >= 0;
        }
        if (!fits)
            code = ipsb_fail(a->bridge, IPS_BRIDGE_GEOMETRY,
                             "put of array %s at step %lld on rank %d: levels must be 0 to %lld and "
                             "places >= 0, got level %lld for block %lld",
                             a->name, (long long)step, a->bridge->self.rank,
                             (long long)(a->levels - 1), (long long)levels[i], (long long)i);
    }
    numbers.cells = table;
    of = (blocks){table, a->shape + 1, ndim};
    if (!code)
        code = put_parts(a, step, &part, 1, NULL, &of);
    if (!code)
        code = put_parts(a->table, step, &numbers, 1, NULL, &of);
    free(table);
    return code;
}

int ips_bridge_put_blocks(ips_bridge *b, const char *name, int64_t step, const void *cells, int64_t n,
                          const int64_t *levels, const int64_t *places, const int64_t *strides)
{
    array *a;
    int code = ipsb_find_to_put(b, name, step, &a);
    return code ? code : ips_bridge_array_put_blocks(a, step, cells, n, levels, places, strides);
}
