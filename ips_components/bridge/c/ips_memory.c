/* Memory between put and the receivers: slots, and copies into them. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

#include "ips_memory.h"

/* Touching memory in steps of the smallest page serves larger ones too. */
enum { PAGE = 4096, HUGE_PAGE = 2 << 20 };

size_t ipsb_slot_size(size_t bytes)
{
    size_t unit = bytes >= HUGE_PAGE ? HUGE_PAGE : PAGE;
    return bytes ? (bytes + unit - 1) / unit * unit : unit;
}

slot *ipsb_slot_make(uint32_t number, size_t bytes, uint32_t expected, segments *shared,
                     segment_limits *limits)
{
    size_t size = ipsb_slot_size(bytes);
    void *memory = MAP_FAILED;
    slot *s = calloc(1, sizeof *s);
    if (!s || size < bytes) {
        free(s);
        return NULL;
    }
    s->number = number;
    s->size = size;
    s->segment = shared ? ipsb_segment_take(shared, limits, size, expected, &s->at) : NULL;
    if (s->segment)
        memory = s->segment->memory + s->at;
    else
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        free(s);
        return NULL;
    }
    s->memory = memory;
    if (size >= HUGE_PAGE && !s->segment)
        (void)madvise(memory, size, MADV_HUGEPAGE);
    /* Touch every page now: the first step must not pay for it. */
    for (size_t at = 0; at < size; at += PAGE)
        ((volatile uint8_t *)memory)[at] = 0;
    return s;
}

bool ipsb_slot_move(slot *s, slot_event event)
{
    slot_state next = ipsb_slot_after(s->state, event);
    if (next == SLOT_STATES)
        return false;
    s->state = next;
    return true;
}

bool ipsb_slot_use(slot *s)
{
    if (!ipsb_slot_move(s, SLOT_USE))
        return false;
    s->pending++;
    return true;
}

void ipsb_slot_done(slot *s)
{
    if (!--s->pending)
        (void)ipsb_slot_move(s, SLOT_UNUSED);
}

bool ipsb_slot_discardable(const slot *s)
{
    return s->state == SLOT_FREE || (s->state == SLOT_RETIRED && !s->pending);
}

bool ipsb_slot_usable(const slot *s)
{
    return s->state == SLOT_FREE && !(s->segment && s->segment->given_up);
}

void ipsb_slot_free(slot *s, segments *shared, segment_limits *limits)
{
    if (!s)
        return;
    if (s->segment)
        ipsb_segment_give_back(shared, limits, s->segment, s->at, s->size, s->state == SLOT_FREE);
    else
        munmap(s->memory, s->size);
    free(s->stored);
    free(s->numbers);
    free(s->announced);
    free(s);
}

uint32_t ipsb_may_hold(holders *h, uint32_t link)
{
    for (uint32_t i = 0; i < h->n; i++)
        if (h->links[i] == link)
            return h->each;
    if (!h->each || (h->n + 1) * h->each > h->all)
        return 0;
    h->links[h->n++] = link;
    return h->each;
}

void ipsb_slot_clear(slot *s)
{
    s->n_stored = s->n_numbers = 0;
}

bool ipsb_slot_store(slot *s, uint32_t array, int64_t t, const piece *p, int ndim, size_t offset,
                     const int64_t *strides, int64_t itemsize)
{
    size_t need = 4 * (size_t)ndim;
    if (s->n_stored == s->room_stored) {
        size_t room = s->room_stored ? 2 * s->room_stored : 4;
        stored *more = realloc(s->stored, sizeof *more * room);
        if (!more)
            return false;
        s->stored = more;
        s->room_stored = room;
    }
    if (s->n_numbers + need > s->room_numbers) {
        size_t room = 2 * s->room_numbers + need;
        int64_t *more = realloc(s->numbers, sizeof *more * room);
        if (!more)
            return false;
        s->numbers = more;
        s->room_numbers = room;
    }
    stored *entry = &s->stored[s->n_stored++];
    int64_t *to = s->numbers + s->n_numbers, run = itemsize;
    *entry = (stored){.array = array, .chunk = p->chunk, .t = t, .cells = p->cut->cells,
                    .offset = offset, .bytes = (size_t)(p->cut->cells * itemsize), .dense = true,
                    .ndim = ndim, .numbers = s->n_numbers};
    s->n_numbers += need;
    for (int d = 0; d < ndim; d++) {
        progression span = d ? p->cut->dst[d - 1] : p->time;
        to[3 * d] = span.start;
        to[3 * d + 1] = span.count;
        to[3 * d + 2] = span.step;
        to[3 * ndim + d] = d ? strides[d - 1] : 0;
    }
    for (int d = ndim - 1; d > 0; d--) {
        entry->dense &= strides[d - 1] == run || to[3 * d + 1] == 1;
        run *= to[3 * d + 1];
    }
    return true;
}

/* ---- Copies ------------------------------------------------------------------------------------ */

/* One strided line of cells; the constant sizes let the compiler move them as numbers. */
static void line(uint8_t *out, const uint8_t *in, int64_t n, int64_t stride, size_t itemsize)
{
#define CELLS(bytes)                                                                               \
    for (int64_t i = 0; i < n; i++, in += stride, out += (bytes))                                  \
    memcpy(out, in, (bytes))
    switch (itemsize) {
    case 1:
        CELLS(1);
        break;
    case 2:
        CELLS(2);
        break;
    case 4:
        CELLS(4);
        break;
    case 8:
        CELLS(8);
        break;
    case 16:
        CELLS(16);
        break;
    default:
        CELLS(itemsize);
    }
#undef CELLS
}

void ipsb_gather(uint8_t *out, const uint8_t *base, int ndim, const int64_t *count,
                 const int64_t *strides, size_t itemsize, int64_t from, int64_t cells)
{
    int64_t n[MAX_NDIM], stride[MAX_NDIM], at[MAX_NDIM], run = 1, inner, step;
    int dims = 0;
    for (int d = 0; d < ndim; d++)
        if (count[d] != 1) {
            n[dims] = count[d];
            stride[dims++] = strides[d];
        }
    /* Inner dimensions without gaps make one run of bytes. */
    while (dims && stride[dims - 1] == (int64_t)itemsize * run)
        run *= n[--dims];
    inner = run;
    step = (int64_t)itemsize;
    if (run == 1 && dims) {
        inner = n[--dims];
        step = stride[dims];
    }
    int64_t in_line = from % inner, rest = from / inner;
    const uint8_t *in = base;
    for (int d = dims - 1; d >= 0; d--) {
        at[d] = rest % n[d];
        rest /= n[d];
        in += at[d] * stride[d];
    }
    while (cells > 0) {
        int64_t part = inner - in_line < cells ? inner - in_line : cells;
        if (step == (int64_t)itemsize)
            memcpy(out, in + in_line * step, (size_t)part * itemsize);
        else
            line(out, in + in_line * step, part, step, itemsize);
        out += (size_t)part * itemsize;
        cells -= part;
        in_line = 0;
        for (int d = dims - 1; d >= 0; d--) {
            in += stride[d];
            if (++at[d] < n[d])
                break;
            in -= at[d] * stride[d];
            at[d] = 0;
        }
    }
}
