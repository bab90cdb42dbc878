/* From the program's memory into a slot: blocks, and rows from wherever they lie. */
#include "ips_copy.h"

/* A row by its number in all parts together; `part` is where the last one was. */
static const uint8_t *row_at(const row_source *from, int64_t number, size_t *part, int64_t *before)
{
    const ips_bridge_rows *of;
    while (number < *before)
        *before -= from->parts[--*part].rows;
    while (number - *before >= from->parts[*part].rows)
        *before += from->parts[(*part)++].rows;
    of = &from->parts[*part];
    number -= *before;
    number = of->index ? of->index[number] : number;
    return (const uint8_t *)of->cells + number * (of->strides ? of->strides[0] : from->strides[0]);
}

/* Copy rows, `n` of them by their numbers or the first ones, cut to `columns`; returns the end. */
static uint8_t *copy_rows(uint8_t *out, const array *a, const row_source *from, const int64_t *numbers,
                          int64_t n, const progression *columns)
{
    int64_t counts[MAX_NDIM], strides[MAX_NDIM], before = 0, cells = 1, at = 0;
    size_t part = 0, itemsize = (size_t)a->itemsize, last = SIZE_MAX;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *row = row_at(from, numbers ? numbers[i] : i, &part, &before);
        if (part != last) { /* the columns of this part */
            const int64_t *own = from->parts[part].strides;
            own = own ? own : from->strides;
            at = 0;
            cells = 1;
            for (int d = 1; d < a->ndim; d++) {
                counts[d - 1] = columns[d - 1].count;
                strides[d - 1] = columns[d - 1].step * own[d];
                at += columns[d - 1].start * own[d];
                cells *= columns[d - 1].count;
            }
            last = part;
        }
        if (cells == 1)
            memcpy(out, row + at, itemsize);
        else
            ipsb_gather(out, row + at, a->ndim - 1, counts, strides, itemsize, 0, cells);
        out += (size_t)cells * itemsize;
    }
    return out;
}

/* Copy the rows of a piece, and the positions of those with ids. */
static void copy_piece_of_rows(uint8_t *out, const put_request *o, const piece *p)
{
    const id_cut *c = (const id_cut *)p->cut;
    if (!o->ids) {
        copy_rows(out, o->a, o->from, o->from->numbers, o->rows, p->cut->src + 1);
        return;
    }
    out = copy_rows(out, o->a, o->from, o->ids->chosen + c->first, c->n, c->columns);
    for (int64_t i = 0; i < c->n; i++, out += 4)
        set32(out, o->ids->positions[c->first + (size_t)i]);
}

int64_t ipsb_locate(const cut *c, int ndim, const int64_t *strides, int64_t *own)
{
    int64_t at = 0;
    for (int d = 0; d < ndim; d++) {
        at += c->src[d].start * strides[d];
        own[d] = c->src[d].step * strides[d];
    }
    return at;
}

int64_t ipsb_store(const put_request *o, const piece *p, slot *s, size_t place,
                   const uint8_t *cells, const int64_t *strides)
{
    const array *a = o->a;
    int ndim = o->ids ? 2 : a->contract->ndim;
    int64_t counts[MAX_NDIM], from[MAX_NDIM], dense[MAX_NDIM];
    int64_t unit = o->ids ? 1 : a->itemsize, run = unit;
    for (int d = ndim - 2; d >= 0; d--) {
        counts[d] = p->cut->dst[d].count;
        dense[d] = run;
        run *= counts[d];
    }
    if (o->from) {
        copy_piece_of_rows(s->memory + place, o, p);
    } else {
        int64_t at = ipsb_locate(p->cut, ndim - 1, strides, from);
        ipsb_gather(s->memory + place, cells + at, ndim - 1, counts, from, (size_t)unit, 0,
                    p->cut->cells);
    }
    return ipsb_slot_store(s, a->ordinal, o->t, p, ndim, place, dense, unit) ? run : -1;
}
