/* The way of a block: checks, memory, sending. */
#ifndef IPS_PUT_H
#define IPS_PUT_H

#include "ips_copy.h"
#include "ips_slots.h"

int ipsb_find_array(ips_bridge *b, const char *name, array **out);
/* The same, for a put at a step. */
int ipsb_find_to_put(ips_bridge *b, const char *name, int64_t step, array **out);
/* Refuse a step that does not follow those that were put; take_step notes it too. */
int ipsb_check_step(ips_bridge *b, const array *a, const put_mark *block, int64_t step);
void ipsb_mark_step(array *a, put_mark *block, int64_t step);
/* A code for a step below or beyond all that there can be; others are left out on purpose. */
int ipsb_check_axis(ips_bridge *b, const array *a, int64_t step);
int ipsb_take_step(ips_bridge *b, array *a, put_mark *block, int64_t step);
put_mark *ipsb_mark_of(array *a, plan *p);
void ipsb_begin_step(ips_bridge *b, int64_t step);
/* Wait for credit, then for a slot of `bytes` (or of what the pieces need, when 0). */
int ipsb_prepare(ips_bridge *b, const put_request *o, ring *r, size_t bytes, slot **out, bool *admitted);
/* Begin a put, of the declared block or not. `out` is NULL when it is done: the step is not wanted. */
int ipsb_begin_put(array *a, int64_t step, bool own, array **out);
int ipsb_fail_kind(ips_bridge *b, const array *a);
/* Send the wanted cells, and note the step unless nothing of it was put; cells NULL: they lie where
 * the request says. */
int ipsb_send(ips_bridge *b, const put_request *o, const uint8_t *cells, const int64_t *strides,
              int64_t total);
/* Note a step that was put, and have attached runs move; returns the newest step before. */
int64_t ipsb_note_newest(ips_bridge *b, int64_t step);
int64_t ipsb_wanted_bytes(const ips_bridge *b, const array *a);
void ipsb_note(ips_bridge *b, const put_request *o);
void ipsb_count(array *a, int what, uint64_t blocks, int64_t bytes);
int ipsb_publish(ips_bridge *b, slot *s);
int ipsb_not_sent(ips_bridge *b, array *a, int code, int64_t bytes);
bool ipsb_drain(ips_bridge *b, double seconds); /* wait until receivers have taken all */
void ipsb_end_step(ips_bridge *b, bool now);
/* Now and then, have a look at what arrived although nothing is sent, and let the run know that this
 * rank goes on. */
void ipsb_poll_if_due(ips_bridge *b, int64_t step);

#endif
