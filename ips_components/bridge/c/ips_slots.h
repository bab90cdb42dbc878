/* The slots of an array: which one is written next, and when there may be more of them. */
#ifndef IPS_SLOTS_H
#define IPS_SLOTS_H

#include "ips_state.h"

/* The n-th block of an array in a step, put or begun, has the n-th ring; NULL without memory. */
ring *ipsb_ring_of(ips_bridge *b, array *a, int64_t step);
/* A slot that may be written, marked so; NULL with code 0 when the analytics are lost. */
int ipsb_take_slot(ips_bridge *b, ring *r, size_t bytes, slot **out, bool *waited);
/* The ring of a block that was not put is that of the next one. */
void ipsb_return_ring(array *a, uint32_t number);
/* Take back a slot that was not published; it is the next one again, and so is its ring. */
void ipsb_release_slot(array *a, slot *s);

#endif
