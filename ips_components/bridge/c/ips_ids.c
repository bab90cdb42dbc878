/* Rows by global ids: their order, and what each chunk needs of them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "ips_ids.h"

enum { MAX_CUTS = 1 << 20 };
/* Bytes of a row: no more can be meant, and products stay inside 64 bits. */
static const int64_t MAX_ROW = (int64_t)1 << 40;

typedef struct numbered {
    int64_t id, row;
} numbered;

static int by_id(const void *left, const void *right)
{
    const numbered *a = left, *b = right;
    if (a->id != b->id)
        return a->id < b->id ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

void ipsb_ids_free(id_plan *p)
{
    if (!p)
        return;
    free(p->ids);
    free(p->sorted);
    free(p->rows);
    free(p->active);
    free(p->now);
    free(p->cuts);
    free(p->chosen);
    free(p->positions);
    free(p);
}

static bool sort(id_plan *p)
{
    numbered *all = malloc(sizeof *all * ((size_t)p->n + 1));
    bool ascending = true;
    if (!all)
        return false;
    for (int64_t i = 0; i < p->n; i++) {
        all[i] = (numbered){p->ids[i], i};
        ascending &= !i || p->ids[i - 1] < p->ids[i];
    }
    if (!ascending)
        qsort(all, (size_t)p->n, sizeof *all, by_id);
    for (int64_t i = 0; i < p->n; i++) {
        p->sorted[i] = all[i].id;
        p->rows[i] = all[i].row;
    }
    free(all);
    return true;
}

id_plan *ipsb_ids_make(const agreement *a, int64_t n, const int64_t *ids, char *why, size_t room)
{
    size_t count = (size_t)n + 1, wanted = (size_t)a->n_wanted;
    id_plan *p = calloc(1, sizeof *p);
    snprintf(why, room, "no memory for its ids");
    if (!p)
        return NULL;
    p->contract = a;
    p->n = n;
    p->ids = malloc(sizeof *p->ids * count);
    p->sorted = malloc(sizeof *p->sorted * count);
    p->rows = malloc(sizeof *p->rows * count);
    p->chosen = malloc(sizeof *p->chosen * count);
    p->positions = malloc(sizeof *p->positions * count);
    p->active = calloc(wanted, sizeof *p->active);
    p->now = calloc(wanted, sizeof *p->now);
    if (!p->ids || !p->sorted || !p->rows || !p->chosen || !p->positions || !p->active || !p->now) {
        ipsb_ids_free(p);
        return NULL;
    }
    if (n)
        memcpy(p->ids, ids, sizeof *ids * (size_t)n);
    if (!sort(p)) {
        ipsb_ids_free(p);
        return NULL;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t id = p->sorted[i];
        if (id < 0 || id >= a->shape[1])
            snprintf(why, room, "ids must be 0 to %" PRId64 ", got %" PRId64 "; ids count from 0",
                     a->shape[1] - 1, id);
        else if (i && id == p->sorted[i - 1])
            snprintf(why, room,
                     "ids %" PRId64 " are given twice by the same rank; give each row of a rank its "
                     "own id",
                     id);
        else
            continue;
        ipsb_ids_free(p);
        return NULL;
    }
    return p;
}

/* The first of the sorted ids that is not below a number. */
static int64_t lower(const id_plan *p, int64_t low)
{
    int64_t a = 0, b = p->n;
    while (a < b) {
        int64_t middle = a + (b - a) / 2;
        if (p->sorted[middle] < low)
            a = middle + 1;
        else
            b = middle;
    }
    return a;
}

static const progression *ids_of(const id_plan *p, int i)
{
    return &p->contract->wanted[(size_t)i * (size_t)p->contract->ndim + 1];
}

static bool wanted_now(const id_plan *p, int64_t id)
{
    for (int i = 0; i < p->contract->n_wanted; i++)
        if (p->now[i] && ipsb_has(*ids_of(p, i), id))
            return true;
    return false;
}

static bool add_cut(id_plan *p, int64_t space, size_t first, int64_t n, const parts *columns,
                    const size_t *at)
{
    const agreement *a = p->contract;
    id_cut *c;
    if (p->n_cuts >= MAX_CUTS)
        return false;
    if (p->n_cuts == p->room_cuts) {
        size_t room = p->room_cuts ? 2 * p->room_cuts : 8;
        id_cut *more = realloc(p->cuts, sizeof *more * room);
        if (!more)
            return false;
        p->cuts = more;
        p->room_cuts = room;
    }
    c = &p->cuts[p->n_cuts++];
    *c = (id_cut){.first = first, .n = n, .row_bytes = a->itemsize};
    for (int d = 2; d < a->ndim; d++) {
        const part *of = &columns[d].items[at[d]];
        space = space * a->chunks[d].n_chunks + of->chunk;
        c->columns[d - 2] = of->src;
        if (of->src.count > MAX_ROW / c->row_bytes)
            return false;
        c->row_bytes *= of->src.count;
    }
    c->head.space = space;
    c->head.cells = n * (c->row_bytes + (int64_t)sizeof *p->positions);
    c->dst = (progression){0, c->head.cells, 1};
    return true;
}

/* Choose the rows of one chunk along the ids, and cut them by the chunks of the columns. */
static bool add_chunk(id_plan *p, int64_t j, const parts *columns)
{
    const agreement *a = p->contract;
    int64_t low, high;
    size_t first = p->n_chosen, at[MAX_NDIM] = {0};
    bool needed = false;
    progression outer;
    ipsb_chunk_bounds(&a->chunks[1], j, &low, &high);
    outer = ipsb_clip(a->cover[1], low, high);
    for (int i = 0; i < a->n_wanted && !needed; i++)
        needed = p->now[i] && ipsb_clip(*ids_of(p, i), low, high).count;
    if (!needed)
        return true;
    for (int64_t i = lower(p, low); i < p->n && p->sorted[i] < high; i++)
        if (wanted_now(p, p->sorted[i])) {
            p->chosen[p->n_chosen] = p->rows[i];
            p->positions[p->n_chosen++] = (uint32_t)((p->sorted[i] - outer.start) / outer.step);
        }
    for (;;) {
        int d = a->ndim - 1;
        if (!add_cut(p, j, first, (int64_t)(p->n_chosen - first), columns, at))
            return false;
        for (; d >= 2 && ++at[d] == columns[d].n; d--)
            at[d] = 0;
        if (d < 2)
            return true;
    }
}

static bool make_cuts(id_plan *p)
{
    const agreement *a = p->contract;
    parts columns[MAX_NDIM] = {{NULL, 0}};
    plan rows = {.contract = a}; /* whole rows, without halo */
    bool made = true;
    p->n_cuts = p->n_chosen = 0;
    for (int d = 2; d < a->ndim && made; d++) {
        rows.count[d - 1] = a->shape[d];
        made = ipsb_cut_dimension(a, d, a->cover[d], &rows, &columns[d]);
    }
    for (int64_t j = 0; j < a->chunks[1].n_chunks && made; j++)
        made = add_chunk(p, j, columns);
    for (int d = 2; d < a->ndim; d++)
        free(columns[d].items);
    for (size_t i = 0; i < p->n_cuts; i++) /* the table has its final place now */
        p->cuts[i].head.src = p->cuts[i].head.dst = &p->cuts[i].dst;
    return made;
}

bool ipsb_ids_at(id_plan *p, int64_t t, pieces *out)
{
    const agreement *a = p->contract;
    size_t bytes = sizeof *p->now * (size_t)a->n_wanted;
    progression time;
    int64_t row;
    bool any = false;
    out->n = 0;
    for (int i = 0; i < a->n_wanted; i++)
        any |= p->now[i] = ipsb_has(a->wanted[(size_t)i * (size_t)a->ndim], t);
    if (!any)
        return true;
    if (!p->any || memcmp(p->now, p->active, bytes) != 0) {
        p->any = make_cuts(p);
        if (!p->any)
            return false;
        memcpy(p->active, p->now, bytes);
    }
    if (p->n_cuts > out->room) {
        piece *more = realloc(out->items, sizeof *more * p->n_cuts);
        if (!more)
            return false;
        out->items = more;
        out->room = p->n_cuts;
    }
    row = ipsb_time_in_chunk(a, t, &time);
    for (size_t i = 0; i < p->n_cuts; i++) {
        int64_t chunk = row * a->n_space + p->cuts[i].head.space;
        out->items[out->n++] = (piece){chunk, ipsb_owner(a, chunk), time, &p->cuts[i].head};
    }
    return true;
}
