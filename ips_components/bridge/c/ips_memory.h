/* Memory between put and the receivers: slots, and copies into them. */
#ifndef IPS_MEMORY_H
#define IPS_MEMORY_H

#include "ips_leases.h"
#include "ips_plan.h"
#include "ips_segments.h"

/* A piece as it lies in a slot. */
typedef struct stored {
    uint32_t array;
    int64_t chunk, t, cells;
    size_t offset, bytes;
    bool dense; /* C order without gaps */
    int ndim;
    size_t numbers; /* in the slot's numbers: 3 * ndim for dst, then ndim strides */
} stored;

/* Which receivers may keep slots of a ring as chunks: together never more than `all` of them, so that
 * the rank always gets a slot back, however many receivers its blocks go to. */
enum { HELD = 2 };
typedef struct holders {
    uint32_t all, each, n; /* slots that all together and each may keep; receivers that may */
    uint32_t links[HELD]; /* their links */
} holders;

/* Slots of the ring that the receiver of a link may keep; the first links to ask get all. */
uint32_t ipsb_may_hold(holders *h, uint32_t link);

/* Some memory; part of a segment when receivers on this machine may map it. */
typedef struct slot {
    uint32_t number, ring, length; /* the ring has `length` slots */
    holders *holders;              /* the ring's */
    uint64_t used;                        /* turn of the ring in which it was handed out last */
    size_t size;
    uint8_t *memory;
    bool lent;        /* the program's own memory: its put waits for an answer */
    segment *segment; /* NULL: no receiver can map it */
    size_t at;        /* in the segment */
    slot_state state;
    size_t pending;      /* sent pieces that still read it */
    uint32_t generation; /* number of leases so far */
    stored *stored;
    size_t n_stored, room_stored;
    int64_t *numbers;
    size_t n_numbers, room_numbers;
    uint32_t *announced; /* per link: generation of the connection that knows the slot */
    uint32_t n_announced;
} slot;

/* Bytes that a slot for `bytes` has: whole pages, huge ones when it is large. */
size_t ipsb_slot_size(size_t bytes);
/* New memory; of `shared` unless this is NULL or has no room, where `expected` such slots may follow. */
slot *ipsb_slot_make(uint32_t number, size_t bytes, uint32_t expected, segments *shared,
                     segment_limits *limits);
void ipsb_slot_free(slot *s, segments *shared, segment_limits *limits);
/* False when the table of a slot's life does not allow it: an error of this library. */
bool ipsb_slot_move(slot *s, slot_event event);
/* Begin and end a use: a piece that is to be sent from the slot. */
bool ipsb_slot_use(slot *s);
void ipsb_slot_done(slot *s);
/* Whether the memory may be given up, and whether it may be written again. */
bool ipsb_slot_discardable(const slot *s);
bool ipsb_slot_usable(const slot *s);
void ipsb_slot_clear(slot *s);
/* Note a piece; strides of all ndim dimensions. False when there is no memory. */
bool ipsb_slot_store(slot *s, uint32_t array, int64_t t, const piece *p, int ndim, size_t offset,
                     const int64_t *strides, int64_t itemsize);

/* The slots of one block: the free one that was used longest ago is the next one. */
typedef struct ring {
    slot **slots;
    segments *shared; /* the array's; NULL: receivers map nothing */
    holders *holders;
    struct ips_bridge_array *of;
    uint32_t number, n;
    uint32_t full, length; /* slots at most: without a limit in bytes, and within it */
    size_t size;           /* of those slots; 0: nothing is settled yet */
    uint64_t turn;
    size_t refused; /* bytes that were too many for another slot; 0: none were */
} ring;

enum { NEEDED = 3 }; /* slots of a ring without any replay */

/* Copy `cells` cells, from number `from` on in C order, out of a strided box. */
void ipsb_gather(uint8_t *out, const uint8_t *base, int ndim, const int64_t *count,
                 const int64_t *strides, size_t itemsize, int64_t from, int64_t cells);

#endif
