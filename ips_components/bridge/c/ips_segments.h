/* Shared memory of an array: few descriptors, however many slots (bridge/segments.py does the same). */
#ifndef IPS_SEGMENTS_H
#define IPS_SEGMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the segments of a bridge may take. */
typedef struct segment_limits {
    size_t segments, max_segments; /* each has a descriptor: some must be left to the program */
    uint32_t next;                 /* number of the next one */
    bool warned;                   /* that blocks are sent instead */
} segment_limits;

typedef struct span {
    size_t offset, size;
} span;

/* One piece of shared memory. */
typedef struct segment {
    int fd;
    uint32_t number;
    uint8_t *memory;
    size_t size, slots; /* bytes; slots that lie in it */
    bool given_up;      /* a receiver may read parts of it for ever: it should end soon */
    span *unused;       /* parts by offset, never two that touch */
    size_t n_unused, room_unused;
} segment;

typedef struct segments {
    segment **items;
    size_t n;
} segments;

/* A part of `size` bytes, which are whole pages; `slots` of them are to be expected. NULL when there is
 * no shared memory. */
segment *ipsb_segment_take(segments *all, segment_limits *limits, size_t size, uint32_t slots,
                           size_t *offset);
/* End the use of a part; `reuse` if no receiver reads it. */
void ipsb_segment_give_back(segments *all, segment_limits *limits, segment *s, size_t offset,
                            size_t size, bool reuse);

#endif
