/* Shared memory of an array, in segments of which slots are parts.
 *
 * The first segment has room for the slots of one block; when it is full there is another one, each as
 * large as all before it together. Memory that no slot has used yet takes no space. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ips_segments.h"

enum { FIRST = 16, HUGE_PAGE = 2 << 20 }; /* slots for which the first one has room at most */

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
    int fd = memfd_create("ips-components-slots", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    *memory = MAP_FAILED;
    if (!ftruncate(fd, (off_t)size))
        *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    /* After this mapping no process can make another writable one, or change the size. Kernels before
     * 5.1 do not know the seal against future writing. */
    if (*memory != MAP_FAILED && (fcntl(fd, F_ADD_SEALS, seals | F_SEAL_FUTURE_WRITE) == 0 ||
                                  fcntl(fd, F_ADD_SEALS, seals) == 0))
        return fd;
    int why = errno;
    if (*memory != MAP_FAILED)
        munmap(*memory, size);
    close(fd);
    errno = why;
    return -1;
}

/* Room for one more part than there can be now. */
static bool reserve(segment *s)
{
    span *more;
    if (s->n_unused + 1 < s->room_unused)
        return true;
    more = realloc(s->unused, sizeof *more * (2 * s->room_unused + 4));
    if (!more)
        return false;
    s->unused = more;
    s->room_unused = 2 * s->room_unused + 4;
    return true;
}

static segment *new_segment(segments *all, segment_limits *limits, size_t size)
{
    void *memory = NULL;
    segment *s, **more;
    errno = EMFILE;
    if (limits->segments >= limits->max_segments)
        return NULL;
    errno = ENOMEM;
    more = realloc(all->items, sizeof *more * (all->n + 1));
    if (!more)
        return NULL;
    all->items = more;
    s = calloc(1, sizeof *s);
    if (!s || !reserve(s) || (s->fd = shared_memory(size, &memory)) < 0) {
        if (s)
            free(s->unused);
        free(s);
        return NULL;
    }
    if (size >= HUGE_PAGE)
        (void)madvise(memory, size, MADV_HUGEPAGE);
    s->memory = memory;
    s->size = size;
    s->number = limits->next++;
    s->unused[s->n_unused++] = (span){0, size};
    limits->segments++;
    all->items[all->n++] = s;
    return s;
}

/* Take the first part that is large enough. */
static bool take(segment *s, size_t size, size_t *offset)
{
    for (size_t i = 0; i < s->n_unused; i++) {
        span *part = &s->unused[i];
        if (part->size < size)
            continue;
        *offset = part->offset;
        part->offset += size;
        part->size -= size;
        if (!part->size) {
            memmove(part, part + 1, sizeof *part * (s->n_unused - i - 1));
            s->n_unused--;
        }
        s->slots++;
        return true;
    }
    return false;
}

segment *ipsb_segment_take(segments *all, segment_limits *limits, size_t size, uint32_t slots,
                           size_t *offset)
{
    size_t in_use = 0, expected = (slots < FIRST ? slots : FIRST) * size;
    for (size_t i = 0; i < all->n; i++) {
        segment *s = all->items[i];
        if (s->given_up)
            continue;
        if (take(s, size, offset))
            return s;
        in_use += s->size;
    }
    /* The address space may be limited: less is enough. */
    segment *s = new_segment(all, limits, expected > in_use ? expected : in_use);
    if (!s)
        s = new_segment(all, limits, size);
    if (!s && !limits->warned) {
        fprintf(stderr,
                "ips_components: blocks are sent instead of being read in shared memory, which takes "
                "longer: %s\n",
                strerror(errno));
        limits->warned = true;
    }
    if (s && !take(s, size, offset))
        return NULL;
    return s;
}

/* Note that a part is not used; without memory for the note the segment is given up. */
static void note_unused(segment *s, span part)
{
    size_t i = 0;
    span *at;
    while (i < s->n_unused && s->unused[i].offset < part.offset)
        i++;
    if (i && s->unused[i - 1].offset + s->unused[i - 1].size == part.offset) {
        at = &s->unused[i - 1];
        at->size += part.size;
        if (i < s->n_unused && at->offset + at->size == s->unused[i].offset) {
            at->size += s->unused[i].size;
            memmove(at + 1, at + 2, sizeof *at * (s->n_unused - i - 1));
            s->n_unused--;
        }
    } else if (i < s->n_unused && part.offset + part.size == s->unused[i].offset) {
        s->unused[i].offset = part.offset;
        s->unused[i].size += part.size;
    } else if (reserve(s)) {
        memmove(&s->unused[i + 1], &s->unused[i], sizeof *at * (s->n_unused - i));
        s->unused[i] = part;
        s->n_unused++;
    } else
        s->given_up = true;
}

void ipsb_segment_give_back(segments *all, segment_limits *limits, segment *s, size_t offset,
                            size_t size, bool reuse)
{
    if (reuse)
        note_unused(s, (span){offset, size});
    else
        s->given_up = true;
    if (--s->slots)
        return;
    for (size_t i = 0; i < all->n; i++)
        if (all->items[i] == s) {
            memmove(&all->items[i], &all->items[i + 1], sizeof(segment *) * (all->n - i - 1));
            all->n--;
        }
    limits->segments--;
    munmap(s->memory, s->size);
    close(s->fd);
    free(s->unused);
    free(s);
    if (!all->n) {
        free(all->items);
        all->items = NULL;
    }
}
