/* Memory between put and the receivers: slots, and copies into them. */
#ifndef IPS_MEMORY_H
#define IPS_MEMORY_H

#include "ips_plan.h"

/* A piece as it lies in a slot. */
typedef struct stored {
    uint32_t array;
    int64_t chunk, t, cells;
    size_t offset, bytes;
    bool dense; /* C order without gaps */
    int ndim;
    size_t numbers; /* in the slot's numbers: 3 * ndim for dst, then ndim strides */
} stored;

/* Which receivers may keep slots of a ring as chunks: together never more than HELD of them, so that
 * the rank always gets a slot back, however many receivers its blocks go to. */
enum { HELD = 2 };
typedef struct holders {
    uint32_t each, n;     /* slots that each may keep; receivers that may */
    uint32_t links[HELD]; /* their links */
} holders;

/* Slots of the ring that the receiver of a link may keep; the first links to ask get all. */
uint32_t ipsb_may_hold(holders *h, uint32_t link);

/* Some memory; with a descriptor when receivers on this machine may map it. */
typedef struct slot {
    uint32_t number, ring, length; /* the ring has `length` slots */
    holders *holders;              /* the ring's */
    uint64_t used;                        /* turn of the ring in which it was handed out last */
    size_t size;
    uint8_t *memory;
    int fd;
    size_t pending; /* sent pieces that still read it */
    bool busy;      /* the program writes it now */
    bool retired;   /* a connection ended that had a lease of it: never written again */
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
slot *ipsb_slot_make(uint32_t number, size_t bytes, bool shared);
void ipsb_slot_free(slot *s);
void ipsb_slot_clear(slot *s);
/* Note a piece; strides of all ndim dimensions. False when there is no memory. */
bool ipsb_slot_store(slot *s, uint32_t array, int64_t t, const piece *p, int ndim, size_t offset,
                     const int64_t *strides, int64_t itemsize);

/* The slots of one block: the free one that was used longest ago is the next one. */
typedef struct ring {
    slot **slots;
    holders *holders;
    uint32_t number, length, n;
    uint64_t turn;
    size_t refused; /* bytes that were too many for another slot; 0: none were */
} ring;

enum { NEEDED = 3 }; /* slots of a ring without any replay */

/* Copy `cells` cells, from number `from` on in C order, out of a strided box. */
void ipsb_gather(uint8_t *out, const uint8_t *base, int ndim, const int64_t *count,
                 const int64_t *strides, size_t itemsize, int64_t from, int64_t cells);

#endif
