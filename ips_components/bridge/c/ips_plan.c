/* Which piece of which block goes where, as ips_components/model/pieces.py computes it. The cuts in
 * space are made once per block; a time index only adds the number of the chunk and its receiver. */
#include <stdlib.h>

#include "ips_plan.h"

enum { MAX_CUTS = 1 << 24 };

static int64_t ceil_div(int64_t a, int64_t b) /* b > 0 */
{
    return a / b + (a % b > 0);
}

/* The elements x with low <= x < high. */
progression ipsb_clip(progression p, int64_t low, int64_t high)
{
    progression out = {0, 0, 1};
    int64_t first = low > p.start ? ceil_div(low - p.start, p.step) : 0, last;
    if (!p.count || high <= p.start)
        return out;
    last = (high - 1 - p.start) / p.step;
    if (last > p.count - 1)
        last = p.count - 1;
    if (last < first)
        return out;
    out.start = p.start + first * p.step;
    out.count = last - first + 1;
    out.step = out.count > 1 ? p.step : 1;
    return out;
}

/* The number of the chunk that holds an index, and where it begins and ends. */
static int64_t chunk_of(const chunk_axis *axis, int64_t index, int64_t *low, int64_t *high)
{
    int a = 0, b = axis->n_runs - 1;
    const chunk_run *run;
    int64_t nth;
    while (a < b) {
        int middle = a + (b - a + 1) / 2;
        if (axis->runs[middle].index <= index)
            a = middle;
        else
            b = middle - 1;
    }
    run = &axis->runs[a];
    nth = (index - run->index) / run->size;
    *low = run->index + nth * run->size;
    *high = *low + run->size;
    return run->chunk + nth;
}

void ipsb_chunk_bounds(const chunk_axis *axis, int64_t chunk, int64_t *low, int64_t *high)
{
    for (int i = axis->n_runs - 1; i >= 0; i--)
        if (axis->runs[i].chunk <= chunk && chunk < axis->runs[i].chunk + axis->runs[i].times) {
            *low = axis->runs[i].index + (chunk - axis->runs[i].chunk) * axis->runs[i].size;
            *high = *low + axis->runs[i].size;
            return;
        }
    *low = *high = 0;
}

void ipsb_chunk_times(const agreement *a, int64_t row, int64_t *low, int64_t *high)
{
    ipsb_chunk_bounds(&a->chunks[0], row, low, high);
}

int64_t ipsb_time_in_chunk(const agreement *a, int64_t t, progression *time)
{
    int64_t low, high, first = a->cover[0].start, row = chunk_of(&a->chunks[0], t, &low, &high);
    if (low > first) /* the first index of the cover in this chunk */
        first += ceil_div(low - first, a->cover[0].step) * a->cover[0].step;
    *time = (progression){(t - first) / a->cover[0].step, 1, 1};
    return row;
}

bool ipsb_cut_dimension(const agreement *a, int dim, progression wanted, const plan *p, parts *out)
{
    int64_t offset = p->offset[dim - 1], origin = offset - p->halo[dim - 1];
    progression mine = ipsb_clip(wanted, offset, offset + p->count[dim - 1]);
    size_t room = 0;
    int64_t index = mine.start, low, high;
    out->items = NULL;
    out->n = 0;
    while (mine.count) {
        int64_t chunk = chunk_of(&a->chunks[dim], index, &low, &high);
        progression here = ipsb_clip(mine, low, high), outer = ipsb_clip(a->cover[dim], low, high);
        if (out->n == room) {
            part *more = realloc(out->items, sizeof *more * (room = room ? 2 * room : 8));
            if (!more)
                return false;
            out->items = more;
        }
        part *entry = &out->items[out->n++];
        entry->chunk = chunk;
        entry->src = (progression){here.start - origin, here.count, here.step};
        entry->dst.start = (here.start - outer.start) / outer.step;
        entry->dst.count = here.count;
        entry->dst.step = here.count > 1 ? here.step / outer.step : 1;
        /* on to the next element beyond this chunk */
        progression rest = ipsb_clip(mine, high, INT64_MAX / 4);
        if (!rest.count)
            break;
        index = rest.start;
    }
    return true;
}

typedef struct order {
    progression time;
    int wanted;
} order;

static int by_time(const void *left, const void *right)
{
    const order *a = left, *b = right;
    if (a->time.start != b->time.start)
        return a->time.start < b->time.start ? -1 : 1;
    if (a->time.count != b->time.count)
        return a->time.count < b->time.count ? -1 : 1;
    if (a->time.step != b->time.step)
        return a->time.step < b->time.step ? -1 : 1;
    return a->wanted < b->wanted ? -1 : a->wanted > b->wanted;
}

/* Add the cuts of one wanted selection: all combinations of what its dimensions give. */
static int add_cuts(plan *p, const progression *wanted, size_t *room)
{
    const agreement *a = p->contract;
    int ndim = a->ndim - 1, code = IPS_BRIDGE_OK;
    parts dims[MAX_NDIM] = {{NULL, 0}};
    size_t at[MAX_NDIM] = {0}, total = 1;
    for (int d = 0; d < ndim; d++) {
        if (!ipsb_cut_dimension(a, d + 1, wanted[d + 1], p, &dims[d])) {
            code = IPS_BRIDGE_MEMORY;
            goto done;
        }
        total *= dims[d].n;
        if (total > MAX_CUTS - p->n_cuts) {
            code = IPS_BRIDGE_GEOMETRY;
            goto done;
        }
    }
    if (p->n_cuts + total > *room) {
        size_t more = p->n_cuts + total;
        cut *cuts = realloc(p->cuts, sizeof *cuts * (more ? more : 1));
        if (cuts)
            p->cuts = cuts;
        progression *spans = realloc(p->spans, sizeof *spans * (2 * (size_t)ndim * more + 1));
        if (spans)
            p->spans = spans;
        if (!cuts || !spans) {
            code = IPS_BRIDGE_MEMORY;
            goto done;
        }
        *room = more;
    }
    for (size_t i = 0; i < total; i++) {
        cut *entry = &p->cuts[p->n_cuts];
        progression *span = p->spans + 2 * (size_t)ndim * p->n_cuts++;
        entry->space = 0;
        entry->cells = 1;
        for (int d = 0; d < ndim; d++) {
            const part *of = &dims[d].items[at[d]];
            entry->space = entry->space * a->chunks[d + 1].n_chunks + of->chunk;
            entry->cells *= of->dst.count;
            span[d] = of->src;
            span[ndim + d] = of->dst;
        }
        for (int d = ndim - 1; d >= 0 && ++at[d] == dims[d].n; d--)
            at[d] = 0;
    }
done:
    for (int d = 0; d < ndim; d++)
        free(dims[d].items);
    return code;
}

int ipsb_plan_make(plan *p, const agreement *a, const int64_t *offset, const int64_t *count,
                   const int64_t *halo)
{
    int ndim = a->ndim - 1, code = IPS_BRIDGE_OK;
    size_t room = 0;
    order *sorted;
    memset(p, 0, sizeof *p);
    p->contract = a;
    for (int d = 0; d < ndim; d++) {
        p->offset[d] = offset[d];
        p->count[d] = count[d];
        p->halo[d] = halo ? halo[d] : 0;
        if (offset[d] < 0 || count[d] < 0 || p->halo[d] < 0 || offset[d] > a->shape[d + 1] ||
            count[d] > a->shape[d + 1] - offset[d])
            return IPS_BRIDGE_GEOMETRY;
    }
    sorted = malloc(sizeof *sorted * (size_t)a->n_wanted);
    p->groups = malloc(sizeof *p->groups * (size_t)a->n_wanted);
    if (!sorted || !p->groups) {
        free(sorted);
        ipsb_plan_free(p);
        return IPS_BRIDGE_MEMORY;
    }
    for (int i = 0; i < a->n_wanted; i++)
        sorted[i] = (order){a->wanted[(size_t)i * (size_t)a->ndim], i};
    qsort(sorted, (size_t)a->n_wanted, sizeof *sorted, by_time);
    for (int i = 0; i < a->n_wanted && code == IPS_BRIDGE_OK; i++) {
        size_t before = p->n_cuts;
        order *entry = &sorted[i];
        code = add_cuts(p, a->wanted + (size_t)entry->wanted * (size_t)a->ndim, &room);
        if (code || p->n_cuts == before)
            continue;
        cut_group *last = p->n_groups ? &p->groups[p->n_groups - 1] : NULL;
        if (last && !memcmp(&last->time, &entry->time, sizeof entry->time))
            last->n += p->n_cuts - before;
        else
            p->groups[p->n_groups++] = (cut_group){entry->time, before, p->n_cuts - before};
    }
    free(sorted);
    for (size_t i = 0; i < p->n_cuts && !code; i++) { /* the tables have their final place now */
        p->cuts[i].src = p->spans + 2 * (size_t)ndim * i;
        p->cuts[i].dst = p->cuts[i].src + ndim;
    }
    if (code)
        ipsb_plan_free(p);
    return code;
}

void ipsb_plan_free(plan *p)
{
    free(p->groups);
    free(p->cuts);
    free(p->spans);
    memset(p, 0, sizeof *p);
}

bool ipsb_plan_at(const plan *p, int64_t t, pieces *out)
{
    const agreement *a = p->contract;
    out->n = 0;
    for (size_t g = 0; g < p->n_groups; g++) {
        const cut_group *group = &p->groups[g];
        progression time;
        int64_t row;
        if (!ipsb_has(group->time, t))
            continue;
        row = ipsb_time_in_chunk(a, t, &time);
        if (out->n + group->n > out->room) {
            piece *more = realloc(out->items, sizeof *more * (out->n + group->n));
            if (!more)
                return false;
            out->items = more;
            out->room = out->n + group->n;
        }
        for (size_t i = 0; i < group->n; i++) {
            const cut *entry = &p->cuts[group->first + i];
            piece *to = &out->items[out->n++];
            to->chunk = row * a->n_space + entry->space;
            to->receiver = ipsb_owner(a, to->chunk);
            to->time = time;
            to->cut = entry;
        }
    }
    return true;
}

const progression *ipsb_rows_at(const agreement *a, int rank, int size, int64_t t, int64_t *chunk)
{
    int64_t part = (int64_t)rank * a->n_space / size;
    for (int i = 0; i < a->n_wanted; i++) {
        const progression *wanted = a->wanted + (size_t)i * (size_t)a->ndim;
        if (ipsb_has(wanted[1], part) && ipsb_has(wanted[0], t)) {
            *chunk = t * a->n_space + part;
            return wanted;
        }
    }
    return NULL;
}
