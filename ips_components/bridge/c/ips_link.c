/* One link as a queue of things to send and a state; no socket is read or written here. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "ips_link.h"

static const int64_t MS = 1000000, SECOND = 1000000000;
enum { MAX_QUEUE = 1 << 20 };

int64_t ipsb_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

/* ---- Items ------------------------------------------------------------------------------------- */

void ipsb_push(items *list, item *entry)
{
    entry->next = NULL;
    if (list->last)
        list->last->next = entry;
    else
        list->first = entry;
    list->last = entry;
}

item *ipsb_pop(items *list)
{
    item *entry = list->first;
    if (entry) {
        list->first = entry->next;
        if (!list->first)
            list->last = NULL;
    }
    return entry;
}

static bool enqueue(peer *k, item *entry)
{
    if (!entry)
        return false;
    ipsb_push(&k->queue, entry);
    k->n_queue++;
    return true;
}

bool ipsb_enqueue_piece(peer *k, slot *s, size_t piece)
{
    item *entry = k->n_queue < MAX_QUEUE ? calloc(1, sizeof *entry) : NULL;
    if (!entry || !ipsb_slot_use(s)) {
        free(entry);
        return false;
    }
    entry->seq = ++k->seq;
    entry->slot = s;
    entry->piece = piece;
    return enqueue(k, entry);
}

bool ipsb_enqueue_frame(peer *k, buffer *frame, bool numbered)
{
    item *entry = NULL;
    if (!frame->failed && k->n_queue < MAX_QUEUE)
        entry = calloc(1, sizeof *entry + frame->length);
    if (entry) {
        entry->length = frame->length;
        memcpy(entry->frame, frame->data, frame->length);
        if (numbered) {
            entry->seq = ++k->seq;
            set64(entry->frame + 8, entry->seq); /* the header's number */
        }
    }
    ipsb_buffer_free(frame);
    return enqueue(k, entry);
}

/* End the use of a slot. */
static void drop_item(item *entry)
{
    if (entry->slot)
        ipsb_slot_done(entry->slot);
    free(entry);
}

static void drop_all(items *list)
{
    for (item *entry = ipsb_pop(list); entry; entry = ipsb_pop(list))
        drop_item(entry);
}

/* Retire the slots leased to a connection that has ended: its receiver may go on reading them and
 * cannot return them any more. */
static void lose_leases(items *list)
{
    for (item *entry = list->first; entry; entry = entry->next)
        if (entry->leased) {
            (void)ipsb_slot_move(entry->slot, SLOT_LEASE_LOST);
            entry->leased = false;
        }
}

bool ipsb_on_ack(peer *k, uint64_t seq)
{
    if (seq > k->packed_seq || (k->bulk && seq >= k->bulk->seq)) {
        snprintf(k->why, sizeof k->why, "it took what was not sent");
        return false;
    }
    while (k->unacked.first && k->unacked.first->seq <= seq) {
        item *entry = ipsb_pop(&k->unacked);
        if (entry->leased)
            ipsb_push(&k->held, entry);
        else
            drop_item(entry);
    }
    return true;
}

static bool is_lease(const item *entry, uint32_t slot, uint32_t generation)
{
    return entry->leased && entry->generation == generation && entry->slot->number == slot;
}

bool ipsb_on_release(peer *k, uint32_t slot, uint32_t generation)
{
    item *before = NULL;
    /* What was sent before a piece whose lease comes back was taken as well. */
    for (const item *entry = k->unacked.first; entry; entry = entry->next)
        if (is_lease(entry, slot, generation)) {
            if (!ipsb_on_ack(k, entry->seq))
                return false;
            break;
        }
    for (item *entry = k->held.first; entry; before = entry, entry = entry->next) {
        if (!is_lease(entry, slot, generation))
            continue;
        if (before)
            before->next = entry->next;
        else
            k->held.first = entry->next;
        if (k->held.last == entry)
            k->held.last = before;
        drop_item(entry);
        return true;
    }
    return true;
}

bool ipsb_on_welcome(peer *k, uint64_t last_seq)
{
    items again = {NULL, NULL};
    if (last_seq > k->seq) {
        snprintf(k->why, sizeof k->why, "it took what was not sent");
        return false;
    }
    for (item *entry = ipsb_pop(&k->unacked); entry; entry = ipsb_pop(&k->unacked)) {
        if (entry->seq > last_seq) {
            ipsb_push(&again, entry);
        } else
            drop_item(entry);
    }
    drop_all(&k->held);
    if (again.first) {
        for (item *entry = again.first; entry; entry = entry->next)
            k->n_queue++;
        again.last->next = k->queue.first;
        if (!k->queue.first)
            k->queue.last = again.last;
        k->queue.first = again.first;
    }
    k->packed_seq = last_seq;
    return true;
}

bool ipsb_is_queued(const items *list, const slot *s, size_t piece)
{
    for (const item *entry = list->first; entry; entry = entry->next)
        if (entry->slot == s && entry->piece == piece)
            return true;
    return false;
}

bool ipsb_is_requested(const peer *k, uint32_t array, int64_t chunk)
{
    for (size_t i = 0; i < k->n_requested; i++)
        if (k->requested[i].chunk == chunk && k->requested[i].array == array)
            return true;
    return false;
}

/* ---- Links ------------------------------------------------------------------------------------- */

static char *copy(const char *text)
{
    char *out = malloc(strlen(text) + 1);
    return out ? strcpy(out, text) : NULL;
}

void ipsb_link_free(peer *k)
{
    if (!k)
        return;
    ipsb_link_end(k);
    ipsb_buffer_free(&k->in);
    ipsb_buffer_free(&k->out);
    free(k->at.host);
    free(k->at.unix_name);
    free(k->at.hostname);
    free(k->at.boot);
    free(k->admitted);
    free(k->wanted);
    free(k->requested);
    free(k);
}

peer *ipsb_link_make(const endpoint *at, uint32_t index, int n_arrays)
{
    size_t n = (size_t)n_arrays + 1;
    peer *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    k->fd = k->out_fd = -1;
    k->index = index;
    k->at = *at;
    k->at.host = copy(at->host);
    k->at.unix_name = copy(at->unix_name);
    k->at.hostname = copy(at->hostname);
    k->at.boot = copy(at->boot);
    k->admitted = calloc(n, sizeof *k->admitted);
    k->wanted = calloc(n, sizeof *k->wanted);
    if (k->at.host && k->at.unix_name && k->at.hostname && k->at.boot && k->admitted && k->wanted)
        return k;
    ipsb_link_free(k);
    return NULL;
}

static void disconnect(peer *k)
{
    if (k->fd >= 0)
        close(k->fd);
    k->fd = k->out_fd = -1;
    k->in.length = k->out.length = k->out_at = 0;
    k->bulk = NULL;
    lose_leases(&k->unacked);
    lose_leases(&k->held);
    k->generation++;
}

void ipsb_link_end(peer *k)
{
    disconnect(k);
    drop_all(&k->queue);
    drop_all(&k->unacked);
    drop_all(&k->held);
    k->n_queue = 0;
    k->state = LINK_CLOSED;
}

bool ipsb_may_return(const peer *k)
{
    return k->state != LINK_OPEN && k->state != LINK_CLOSED && k->opened_at && !k->deserted;
}

bool ipsb_link_idle(const peer *k)
{
    return !k->queue.first && !k->bulk && k->out_at == k->out.length;
}

/* A connection is over: it will be repaired, unless it has done its duty. */
void ipsb_link_broken(peer *k, const char *format, ...)
{
    bool open = k->state == LINK_OPEN;
    char why[sizeof k->why];
    va_list values;
    va_start(values, format);
    vsnprintf(why, sizeof why, format, values);
    va_end(values);
    memcpy(k->why, why, sizeof why);
    disconnect(k);
    if (k->bye_acked) {
        ipsb_link_end(k);
        return;
    }
    k->state = LINK_RECONNECTING;
    if (open) {
        k->broken_since = k->retry_at = ipsb_now();
        k->pause = 50 * MS;
    } else {
        k->retry_at = ipsb_now() + k->pause;
        k->pause = 2 * k->pause < SECOND ? 2 * k->pause : SECOND;
    }
}
