/* An array: plans of its blocks, the match with the contract, what was sent of it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "ips_grid.h"
#include "ips_state.h"

static char *copy(const char *text)
{
    char *out = malloc(strlen(text) + 1);
    return out ? strcpy(out, text) : NULL;
}

array *ipsb_array(ips_bridge *b, const char *name)
{
    for (size_t i = 0; i < b->n_arrays; i++)
        if (!strcmp(b->arrays[i]->name, name))
            return b->arrays[i];
    return NULL;
}

array *ipsb_array_add(ips_bridge *b, const char *name)
{
    array **more = realloc(b->arrays, sizeof *more * (b->n_arrays + 1));
    array *a = more ? calloc(1, sizeof *a) : NULL;
    if (more)
        b->arrays = more;
    if (!a)
        return NULL;
    a->name = copy(name);
    if (!a->name) {
        free(a);
        return NULL;
    }
    a->bridge = b;
    a->ndim = -1;
    a->every = 1;
    a->steps = -1;
    a->end = a->axis_end = INT64_MAX;
    a->furthest = INT64_MIN;
    b->arrays[b->n_arrays++] = a;
    return a;
}

void ipsb_array_free(array *a)
{
    for (size_t r = 0; r < a->n_rings; r++) {
        for (uint32_t i = 0; i < a->rings[r].n; i++)
            ipsb_slot_free(a->rings[r].slots[i], &a->segments, &a->bridge->segment_limits);
        free(a->rings[r].holders);
        free(a->rings[r].slots);
    }
    free(a->segments.items);
    for (int i = 0; i < PLANS; i++)
        if (a->others[i]) {
            ipsb_plan_free(a->others[i]);
            free(a->others[i]);
        }
    if (a->fixed)
        ipsb_plan_free(a->fixed);
    free(a->fixed);
    ipsb_ids_free(a->id_plan);
    free(a->ids);
    free(a->boxes);
    free(a->rings);
    free(a->wanted);
    free(a->moved);
    while (a->open) {
        open_block *next = a->open->next;
        free(a->open->scratch);
        free(a->open);
        a->open = next;
    }
    free(a->scratch);
    free(a->dims);
    free(a->attributes);
    free(a->name);
    free(a);
}

bool ipsb_is_wanted(const array *a, int64_t step)
{
    for (int i = 0; i < a->n_wanted; i++)
        if (ipsb_has(a->wanted[i], step))
            return true;
    return false;
}

int64_t ipsb_extent(const array *a, int d, int64_t count)
{
    return count + a->halo_low[d] + a->halo_high[d];
}

/* Points of a dimension in all; 0: not known. */
static int64_t points(const array *a, int d)
{
    return a->contract ? a->contract->shape[d + 1] : a->shape[d];
}

/* What the rank owns; the dimension along which a block has too few points, or -1. */
static int owned(const array *a, const int64_t *offset, const int64_t *count, int64_t *own_offset,
                 int64_t *own_count, int64_t *before)
{
    int wrong = -1;
    for (int d = 0; d < a->ndim; d++) {
        int64_t n = points(a, d);
        bool below = a->shared[d] == IPS_BRIDGE_LOW && offset[d] > 0 && count[d];
        bool above = a->shared[d] == IPS_BRIDGE_HIGH && n && offset[d] + count[d] < n && count[d];
        if ((below || above) && count[d] < 2)
            wrong = d;
        own_offset[d] = offset[d] + below;
        own_count[d] = count[d] - below - above;
        before[d] = a->halo_low[d] + below;
    }
    return wrong;
}

int ipsb_owned(ips_bridge *b, const array *a, const int64_t *offset, const int64_t *count,
               int64_t *own_offset, int64_t *own_count, int64_t *before)
{
    int wrong = owned(a, offset, count, own_offset, own_count, before);
    if (wrong < 0)
        return IPS_BRIDGE_OK;
    return ipsb_fail(b, IPS_BRIDGE_GEOMETRY,
                     "array %s, rank %d: a block at %lld shares its only plane along dimension %d "
                     "with another block: a block has the points on both sides of its cells, 2 at "
                     "least, or none",
                     a->name, b->self.rank, (long long)offset[wrong], wrong);
}

void ipsb_own_box(const array *a, const int64_t *offset, const int64_t *count, int64_t *own_offset,
                  int64_t *own_count)
{
    int64_t before[MAX_NDIM];
    (void)owned(a, offset, count, own_offset, own_count, before);
}

int64_t ipsb_owned_bytes(const array *a, const int64_t *offset, const int64_t *count)
{
    int64_t own_offset[MAX_NDIM], own_count[MAX_NDIM], before[MAX_NDIM], bytes = a->itemsize;
    (void)owned(a, offset ? offset : a->offset, count ? count : a->count, own_offset, own_count,
                before);
    for (int d = 0; d < a->ndim; d++)
        bytes *= own_count[d];
    return bytes;
}

bool ipsb_add_box(array *a, const int64_t *offset, const int64_t *count)
{
    size_t ndim = (size_t)a->ndim;
    int64_t *more = realloc(a->boxes, sizeof *more * (2 * ndim * (a->n_boxes + 1) + 1));
    if (!more)
        return false;
    a->boxes = more;
    for (size_t d = 0; d < ndim; d++) {
        more[2 * ndim * a->n_boxes + d] = a->offset[d] = offset[d];
        more[2 * ndim * a->n_boxes + ndim + d] = a->count[d] = count[d];
    }
    a->n_boxes++;
    return true;
}

/* ---- Joining ----------------------------------------------------------------------------------- */

static int compare(ips_bridge *b, const array *a, const agreement *c)
{
    int first = c->ragged ? 2 : 1;
    const int64_t *shape = a->shape + (c->ragged ? 1 : 0);
    bool same = !strcmp(a->dtype, c->dtype) && a->ndim == c->ndim - 1 && a->ragged == c->ragged &&
                a->by_id == c->by_id &&
                (a->every == c->every || a->steps < 0 || b->attached_run);
    /* Where the program is launched many times, it may describe the steps of one launch; an attached
     * run has steps of its own. */
    if (!b->many_launches && !b->attached_run && a->steps >= 0) /* else the config says it */
        same = same && a->first == c->first && a->steps == c->steps;
    for (int d = first; same && d < c->ndim; d++)
        if (shape[d - first] != c->shape[d])
            return ipsb_fail(b, IPS_BRIDGE_CONTRACT,
                             "array %s is declared with shape[%d] = %" PRId64 ", but the contract "
                             "(from [[ARRAYS]] of the config) has %" PRId64 ": describe it in one "
                             "place only",
                             a->name, d - 1, shape[d - first], c->shape[d]);
    if (same)
        return IPS_BRIDGE_OK;
    return ipsb_fail(b, IPS_BRIDGE_CONTRACT,
                     "array %s is declared with another type, shape or steps than the contract has "
                     "(declared: %s, %d dimensions; contract: %s, %d): describe it in one place "
                     "only",
                     a->name, a->dtype, a->ndim, c->dtype, c->ndim - 1);
}

/* The regular decomposition's block of this rank. */
static int regular(ips_bridge *b, array *a, const int64_t *shape, int grid_ndim,
                   const int64_t *agreed_grid)
{
    int ndim = a->ndim;
    int64_t grid[MAX_NDIM], offset[MAX_NDIM], count[MAX_NDIM], ranks = 1, rest = b->self.rank;
    a->elsewhere = !ndim && b->self.rank;
    if (!ndim) /* all ranks have it, rank 0 sends it */
        ranks = b->self.size;
    else if (grid_ndim)
        memcpy(grid, agreed_grid, sizeof grid);
    else
        ipsb_dims_create(b->self.size, ndim, grid);
    for (int d = 0; d < ndim && ranks <= b->self.size; d++)
        ranks *= grid[d];
    if ((grid_ndim && grid_ndim != ndim) || ranks != b->self.size)
        return ipsb_fail(b, IPS_BRIDGE_CONTRACT,
                         "array %s: its process grid is for another number of ranks than %d; say "
                         "which block each rank has by ips_bridge_block",
                         a->name, b->self.size);
    for (int d = ndim - 1; d >= 0; d--) {
        bool more = a->shared[d] != IPS_BRIDGE_NOBODY; /* then cells are distributed, not points */
        int64_t n = shape[d] - more, i = rest % grid[d];
        rest /= grid[d];
        offset[d] = i * n / grid[d];
        count[d] = (i + 1) * n / grid[d] - offset[d] + more;
    }
    a->has_block = ipsb_add_box(a, offset, count);
    return a->has_block ? IPS_BRIDGE_OK
                        : ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", a->name);
}

static int make_plan(ips_bridge *b, const array *a, const int64_t *offset, const int64_t *count,
                     plan **out)
{
    int64_t own_offset[MAX_NDIM], own_count[MAX_NDIM], before[MAX_NDIM];
    int code = ipsb_owned(b, a, offset, count, own_offset, own_count, before);
    if (code)
        return code;
    *out = malloc(sizeof **out);
    code = *out ? ipsb_plan_make(*out, a->contract, own_offset, own_count, before)
                : IPS_BRIDGE_MEMORY;
    if (!code)
        return code;
    free(*out);
    *out = NULL;
    return ipsb_fail(b, code, code == IPS_BRIDGE_MEMORY
                                  ? "array %s: no memory for its geometry"
                                  : "array %s: the block is outside the global shape",
                     a->name);
}

static int join_array(ips_bridge *b, array *a, agreement *c, uint32_t ordinal)
{
    int code;
    if (a->declared && (code = compare(b, a, c)))
        return code;
    if (a->has_block && a->ndim != c->ndim - 1)
        return ipsb_fail(b, IPS_BRIDGE_CONTRACT,
                         "array %s: the block has %d dimensions, the contract %d", a->name, a->ndim,
                         c->ndim - 1);
    if (a->block_dtype[0] && strcmp(a->block_dtype, c->dtype) != 0)
        return ipsb_fail(b, IPS_BRIDGE_CONTRACT,
                         "array %s: the program puts %s, the contract has %s", a->name,
                         a->block_dtype, c->dtype);
    a->contract = c;
    a->ordinal = ordinal;
    a->itemsize = c->itemsize;
    a->ragged = c->ragged;
    a->by_id = c->by_id;
    if (a->has_ids && !a->by_id)
        return ipsb_fail(b, IPS_BRIDGE_CONTRACT,
                         "array %s: this program has ids for it, but the contract has blocks; say "
                         "IDS in its section of the config",
                         a->name);
    if (a->has_block && a->by_id)
        return ipsb_fail(b, IPS_BRIDGE_CONTRACT,
                         "array %s is indexed by ids: it has rows, not blocks", a->name);
    a->ndim = c->ndim - 1;
    a->wanted = malloc(sizeof *a->wanted * (size_t)c->n_wanted);
    if (!a->wanted)
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", a->name);
    for (int i = 0; i < c->n_wanted; i++) {
        progression time = c->wanted[(size_t)i * (size_t)c->ndim], steps;
        bool known = false;
        steps = (progression){c->first + c->every * time.start, time.count,
                              time.count > 1 ? c->every * time.step : 1};
        for (int j = 0; j < a->n_wanted; j++)
            known |= !memcmp(&a->wanted[j], &steps, sizeof steps);
        if (!known)
            a->wanted[a->n_wanted++] = steps;
    }
    if ((c->ragged || c->by_id) && b->partial && !a->declared)
        return ipsb_fail(b, IPS_BRIDGE_CONTRACT,
                         "array %s is %s: every rank declares it, and puts its rows (or none) "
                         "at every step",
                         a->name, c->ragged ? "ragged" : "indexed by ids");
    if (c->ragged || c->by_id)
        return IPS_BRIDGE_OK;
    if (!a->declared && !a->has_halo && c->halo_ndim == a->ndim) {
        memcpy(a->halo_low, c->halo_low, sizeof a->halo_low);
        memcpy(a->halo_high, c->halo_high, sizeof a->halo_high);
    }
    if (!a->declared && !a->has_shared && c->shared_ndim == a->ndim)
        memcpy(a->shared, c->shared, sizeof a->shared);
    if (b->partial && !a->declared && !a->has_block) { /* none of it is here */
        a->has_block = true;
        return IPS_BRIDGE_OK;
    }
    if (!a->has_block && !a->ndim && b->self.rank) { /* a number: that of rank 0 is sent */
        a->n_wanted = 0;
        a->has_block = a->elsewhere = true;
        return IPS_BRIDGE_OK;
    }
    if (!a->has_block && (code = regular(b, a, c->shape + 1, a->declared ? 0 : c->grid_ndim, c->grid)))
        return code;
    if (a->n_boxes != 1 || a->varies)
        return IPS_BRIDGE_OK;
    return make_plan(b, a, a->offset, a->count, &a->fixed);
}

/* Bring together what the config describes of a mesh: its blocks, and the table of their levels and
 * places, of which the contract may name one alone. */
static int join_mesh(ips_bridge *b, const agreement *c)
{
    static const char suffix[] = ".blocks";
    size_t length = strlen(c->name), cut = c->is_table ? sizeof suffix - 1 : 0;
    char *name;
    array *a, *table;
    if (!c->levels || b->described || (cut && (cut >= length || c->block_ndim < 1)))
        return IPS_BRIDGE_OK;
    name = malloc(length + sizeof suffix);
    if (!name)
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", c->name);
    memcpy(name, c->name, length - cut);
    name[length - cut] = '\0';
    a = ipsb_array(b, name);
    a = a ? a : ipsb_array_add(b, name);
    memcpy(name + length - cut, suffix, sizeof suffix);
    table = ipsb_array(b, name);
    table = table ? table : ipsb_array_add(b, name);
    free(name);
    if (!a || !table)
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", c->name);
    a->table = table;
    a->levels = c->levels;
    a->ndim = c->is_table ? 1 + c->block_ndim : c->ndim - 1;
    for (int d = 1; d < a->ndim; d++)
        a->shape[d] = c->is_table ? c->block_shape[d - 1] : c->shape[d + 1];
    return IPS_BRIDGE_OK;
}

/* Whether there is a process grid of that many ranks. */
static bool has_grid(const ips_bridge *b, const agreement *c)
{
    int64_t ranks = 1;
    for (int d = 0; d < c->grid_ndim && ranks <= b->self.size; d++)
        ranks *= c->grid[d];
    return !c->grid_ndim || (c->grid_ndim == c->ndim - 1 && ranks == b->self.size);
}

/* Account for an array that is not needed; the config describes it, unless the program does. */
static int join_unneeded(ips_bridge *b, const agreement *c)
{
    array *a = ipsb_array(b, c->name);
    size_t ordinal = b->n_agreed++;
    if (b->described ? !a || !a->declared : !c->itemsize || (!c->ragged && !c->by_id && !has_grid(b, c)))
        return IPS_BRIDGE_OK;
    if (!a && !(a = ipsb_array_add(b, c->name)))
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", c->name);
    if (!a->declared && a->ndim >= 0 && a->ndim != c->ndim - 1)
        return IPS_BRIDGE_OK;
    b->agreed[ordinal] = a;
    a->ordinal = (uint32_t)ordinal;
    if (a->declared)
        return IPS_BRIDGE_OK;
    a->ndim = c->ndim - 1;
    a->itemsize = c->itemsize;
    a->ragged = c->ragged;
    a->by_id = c->by_id;
    memcpy(a->shape, c->shape + 1, sizeof *a->shape * (size_t)a->ndim);
    if (!a->has_halo && c->halo_ndim == a->ndim) {
        memcpy(a->halo_low, c->halo_low, sizeof a->halo_low);
        memcpy(a->halo_high, c->halo_high, sizeof a->halo_high);
    }
    if (!a->has_shared && c->shared_ndim == a->ndim)
        memcpy(a->shared, c->shared, sizeof a->shared);
    if (a->has_block || a->ragged || a->by_id)
        return IPS_BRIDGE_OK;
    return regular(b, a, a->shape, c->grid_ndim, c->grid);
}

/* Find out beyond which step of the run an array has none: by the contract, and by the program. One
 * that is launched many times declares the steps of the whole run or of this launch. */
static void set_ends(const ips_bridge *b, array *a)
{
    int64_t start = a->first;
    if (a->contract && a->contract->steps >= 0)
        a->axis_end = a->contract->first + a->contract->every * a->contract->steps;
    if (!a->declared || a->steps < 0)
        return;
    if (b->many_launches && start + b->shift < b->first_step)
        start = b->first_step;
    else if (b->many_launches)
        start += b->shift;
    if (a->steps <= (INT64_MAX - (start > 0 ? start : 0)) / a->every)
        a->end = start + a->every * a->steps;
}

int ipsb_arrays_join(ips_bridge *b)
{
    b->agreed = calloc((size_t)(b->contract.n_arrays + b->contract.n_unneeded) + 1, sizeof *b->agreed);
    if (!b->agreed)
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for the arrays");
    for (int i = 0; i < b->contract.n_arrays; i++) {
        agreement *c = &b->contract.arrays[i];
        array *a = ipsb_array(b, c->name);
        int code;
        if (b->described && !b->partial && (!a || !a->declared))
            return ipsb_fail(b, IPS_BRIDGE_CONTRACT,
                             "the analysis wants array %s, which this simulation does not declare: "
                             "rename one of them",
                             c->name);
        if (!a && !(a = ipsb_array_add(b, c->name)))
            return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", c->name);
        if ((code = join_array(b, a, c, (uint32_t)i)))
            return code;
        b->agreed[b->n_agreed++] = a;
    }
    for (int i = 0; i < b->contract.n_unneeded; i++) {
        int code = join_unneeded(b, &b->contract.unneeded[i]);
        if (code)
            return code;
    }
    for (int i = 0; i < b->contract.n_arrays; i++) {
        int code = join_mesh(b, &b->contract.arrays[i]);
        if (code)
            return code;
    }
    for (int i = 0; i < b->contract.n_unneeded; i++) {
        const agreement *c = &b->contract.unneeded[i];
        int code = c->itemsize ? join_mesh(b, c) : IPS_BRIDGE_OK;
        if (code)
            return code;
    }
    for (size_t i = 0; i < b->n_arrays; i++) { /* what is not wanted may still be put */
        array *a = b->arrays[i];
        if (!b->attached_run && !b->links.lost[0])
            set_ends(b, a);
        int code = a->contract || a->ragged || a->by_id || a->has_block || !a->declared
                       ? IPS_BRIDGE_OK
                       : regular(b, a, a->shape, 0, NULL);
        if (code)
            return code;
    }
    return IPS_BRIDGE_OK;
}

int ipsb_plan_of(ips_bridge *b, array *a, const int64_t *offset, const int64_t *count,
                 plan **out)
{
    size_t bytes = sizeof *offset * (size_t)a->ndim;
    int64_t own_offset[MAX_NDIM], own_count[MAX_NDIM], before[MAX_NDIM];
    int oldest = 0, code = ipsb_owned(b, a, offset, count, own_offset, own_count, before);
    plan *made;
    *out = a->fixed;
    if (code)
        return code;
    if (a->fixed && !memcmp(own_offset, a->fixed->offset, bytes) &&
        !memcmp(own_count, a->fixed->count, bytes))
        return IPS_BRIDGE_OK;
    for (int i = 0; i < PLANS; i++) {
        plan *p = a->others[i];
        if (p && !memcmp(own_offset, p->offset, bytes) && !memcmp(own_count, p->count, bytes)) {
            p->used = ++a->plan_uses;
            *out = p;
            return IPS_BRIDGE_OK;
        }
        if (!p || (a->others[oldest] && p->used < a->others[oldest]->used))
            oldest = i;
        if (!p)
            break;
    }
    if ((code = make_plan(b, a, offset, count, &made)))
        return code;
    if (a->others[oldest])
        ipsb_plan_free(a->others[oldest]);
    free(a->others[oldest]);
    a->others[oldest] = made;
    made->used = ++a->plan_uses;
    *out = made;
    return IPS_BRIDGE_OK;
}

/* ---- What was sent ----------------------------------------------------------------------------- */

/* Where in its chunk a piece begins, as one number; the n-th start along space is starts[n * every]. */
static uint64_t place_of(const array *a, const int64_t *starts, size_t every)
{
    uint64_t at = 0;
    for (int d = 0; d < a->ndim; d++)
        at = at * 0x9E3779B97F4A7C15u + (uint64_t)starts[(size_t)d * every];
    return at;
}

bool ipsb_note_moved(array *a, int64_t chunk, int64_t t, const cut *c)
{
    uint64_t at = 0;
    if (!a->moved && !(a->moved = malloc(sizeof *a->moved * MOVED)))
        return false;
    if (c && a->ndim)
        at = place_of(a, &c->dst[0].start, sizeof *c->dst / sizeof c->dst->start);
    a->moved[a->n_moved++ % MOVED] = (moved){chunk, t, at};
    return true;
}

/* Whether a slot has something of a chunk at a time index; `at`: what lies there in it. */
static bool in_slots(const array *a, int64_t chunk, int64_t t, const uint64_t *at)
{
    for (size_t r = 0; r < a->n_rings; r++)
        for (uint32_t i = 0; i < a->rings[r].n; i++) {
            const slot *s = a->rings[r].slots[i];
            for (size_t j = 0; j < s->n_stored && s->state != SLOT_WRITING; j++)
                if (s->stored[j].chunk == chunk && s->stored[j].t == t &&
                    (!at || *at == place_of(a, s->numbers + s->stored[j].numbers + 3, 3)))
                    return true;
        }
    return false;
}

/* Whether the declared block gave something to a chunk that is no longer there. */
static bool fixed_is_gone(const array *a, int64_t chunk)
{
    const agreement *c = a->contract;
    int64_t low, high, space = chunk % c->n_space;
    ipsb_chunk_times(c, chunk / c->n_space, &low, &high);
    for (size_t g = 0; g < a->fixed->n_groups; g++) {
        const cut_group *group = &a->fixed->groups[g];
        bool mine = false;
        for (size_t i = 0; i < group->n && !mine; i++)
            mine = a->fixed->cuts[group->first + i].space == space;
        for (int64_t t = low; mine && t < high; t++) {
            if (c->first + c->every * t > a->last_step)
                break;
            if (ipsb_has(group->time, t) && !in_slots(a, chunk, t, NULL))
                return true;
        }
    }
    return false;
}

bool ipsb_is_gone(const ips_bridge *b, const array *a, int64_t chunk, int64_t *no_rows)
{
    size_t n = a->n_moved < MOVED ? a->n_moved : MOVED;
    int64_t here;
    *no_rows = -1;
    if (!a->any_step)
        return false;
    if (!a->ragged) {
        for (size_t i = 0; i < n; i++)
            if (a->moved[i].chunk == chunk &&
                !in_slots(a, chunk, a->moved[i].t, a->by_id ? NULL : &a->moved[i].at))
                return true;
        return a->fixed_put && fixed_is_gone(a, chunk);
    }
    int64_t t = chunk / a->contract->n_space;
    if (a->contract->first + a->contract->every * t > a->last_step ||
        !ipsb_rows_at(a->contract, b->self.rank, b->self.size, t, &here) || here != chunk ||
        in_slots(a, chunk, t, NULL))
        return false;
    for (size_t i = 0; i < n; i++)
        if (a->moved[i].chunk == chunk)
            *no_rows = t;
    return *no_rows < 0;
}

void ipsb_counters(const array *a, uint64_t out[COUNTERS])
{
    out[0] = a->ordinal;
    out[1] = out[6] = 0;
    for (int i = 0; i < 4; i++) {
        out[2 + i] = a->blocks[i];
        out[7 + i] = a->bytes[i];
        out[1] += a->blocks[i];
        out[6] += a->bytes[i];
    }
    out[11] = a->beyond;
}
