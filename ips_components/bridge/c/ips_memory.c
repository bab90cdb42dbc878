/* Memory between put and the receivers: slots, and copies into them. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ips_memory.h"

/* Touching memory in steps of the smallest page serves larger ones too. */
enum { PAGE = 4096, HUGE_PAGE = 2 << 20 };

#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_SEAL_SEAL 1
#define F_SEAL_SHRINK 2
#define F_SEAL_GROW 4
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif

/* A mapping of a sealed descriptor that receivers may map too; -1 where there can be none. */
static int shared_memory(size_t size, void **memory)
{
    int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW;
    int fd = memfd_create("ips-components-slot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    *memory = MAP_FAILED;
    if (!ftruncate(fd, (off_t)size))
        *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    /* After this mapping nobody can make another writable one, or change the size. Kernels before
     * 5.1 do not know the seal against future writing. */
    if (*memory != MAP_FAILED && (fcntl(fd, F_ADD_SEALS, seals | F_SEAL_FUTURE_WRITE) == 0 ||
                                  fcntl(fd, F_ADD_SEALS, seals) == 0))
        return fd;
    if (*memory != MAP_FAILED)
        munmap(*memory, size);
    close(fd);
    return -1;
}

size_t ipsb_slot_size(size_t bytes)
{
    size_t unit = bytes >= HUGE_PAGE ? HUGE_PAGE : PAGE;
    return bytes ? (bytes + unit - 1) / unit * unit : unit;
}

slot *ipsb_slot_make(uint32_t number, size_t bytes, bool shared)
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
    s->fd = shared ? shared_memory(size, &memory) : -1;
    if (s->fd < 0)
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        free(s);
        return NULL;
    }
    s->memory = memory;
    if (size >= HUGE_PAGE)
        (void)madvise(memory, size, MADV_HUGEPAGE);
    /* Touch every page now: the first step must not pay for it. */
    for (size_t at = 0; at < size; at += PAGE)
        ((volatile uint8_t *)memory)[at] = 0;
    return s;
}

void ipsb_slot_free(slot *s)
{
    if (!s)
        return;
    munmap(s->memory, s->size);
    if (s->fd >= 0)
        close(s->fd);
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
    if ((h->n + 1) * h->each > HELD)
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
