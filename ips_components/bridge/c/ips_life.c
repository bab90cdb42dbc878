/* A bridge from its memory to its last message: what the first one and those of attached runs share. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ips_dispatch.h"
#include "ips_feedback.h"
#include "ips_life.h"
#include "ips_rank_info.h"

/* Identity of this machine, as booted now: receivers with the same identity share memory with us. */
static void read_host_identity(ips_bridge *b)
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (gethostname(b->self.hostname, sizeof b->self.hostname - 1))
        b->self.hostname[0] = '\0';
    if (!file)
        return;
    if (fgets(b->self.boot, sizeof b->self.boot, file))
        b->self.boot[strcspn(b->self.boot, " \r\n")] = '\0';
    fclose(file);
}

static void hello_info(void *owner, buffer *out)
{
    ipsb_hello_info(owner, out);
}

static bool dispatch(void *owner, peer *k, const message *m)
{
    return ipsb_dispatch(owner, k, m);
}

ips_bridge *ipsb_make(int rank, int size)
{
    ips_bridge *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->newest = -1;
    b->self.rank = b->errors.rank = rank;
    b->self.size = size;
    read_host_identity(b);
    b->links.last_progress = ipsb_now();
    b->links.self = &b->self;
    b->links.contact = &b->contact;
    b->links.ops = (link_ops){hello_info, dispatch, b};
    return b;
}

void ipsb_account_untaken(ips_bridge *b)
{
    for (size_t i = 0; i < b->n_arrays; i++) {
        array *a = b->arrays[i];
        uint64_t blocks = 0, bytes = 0;
        for (size_t r = 0; r < a->n_rings; r++)
            for (uint32_t j = 0; j < a->rings[r].n; j++) {
                const slot *s = a->rings[r].slots[j];
                uint64_t before = bytes;
                for (size_t n = 0; n < s->n_stored; n++)
                    for (uint32_t k = 0; k < b->links.n; k++)
                        if (ipsb_is_queued(&b->links.items[k]->queue, s, n) ||
                            ipsb_is_queued(&b->links.items[k]->unacked, s, n)) {
                            bytes += s->stored[n].bytes;
                            break;
                        }
                blocks += bytes > before;
            }
        blocks = blocks < a->blocks[DELIVERED] ? blocks : a->blocks[DELIVERED];
        bytes = bytes < a->bytes[DELIVERED] ? bytes : a->bytes[DELIVERED];
        a->blocks[DELIVERED] -= blocks;
        a->blocks[LOST] += blocks;
        a->bytes[DELIVERED] -= bytes;
        a->bytes[LOST] += bytes;
    }
}

bool ipsb_owes_bye(const ips_bridge *b, const peer *k)
{
    return !k->bye_acked &&
           (k->state == LINK_OPEN || (ipsb_may_return(k) && !ipsb_is_detached(b)));
}

void ipsb_send_byes(ips_bridge *b, bool aborted, const char *reason)
{
    size_t n = 0;
    int64_t last = -1;
    bool any = false;
    uint64_t *counters = malloc(sizeof *counters * COUNTERS * (b->n_agreed + 1));
    if (!counters)
        return;
    for (size_t i = 0; i < b->n_agreed; i++)
        if (b->agreed[i])
            ipsb_counters(b->agreed[i], counters + COUNTERS * n++);
    for (size_t i = 0; i < b->n_arrays; i++) {
        const array *a = b->arrays[i];
        if (a->any_put && (!any || a->put_step > last))
            last = a->put_step;
        any |= a->any_put;
    }
    for (uint32_t i = 0; i < b->links.n; i++) {
        buffer frame = {0};
        if (b->links.items[i]->state != LINK_OPEN || b->links.items[i]->bye_sent)
            continue;
        b->links.items[i]->bye_sent = true;
        ipsb_pack_bye(&frame, last, aborted, counters, (uint32_t)n, reason);
        if (ipsb_enqueue_frame(b->links.items[i], &frame, false))
            ipsb_flush(b->links.items[i]);
    }
    free(counters);
}

void ipsb_free(ips_bridge *b)
{
    ipsb_links_free(&b->links);
    ipsb_feedback_free(b);
    for (size_t i = 0; i < b->n_arrays; i++)
        ipsb_array_free(b->arrays[i]);
    ipsb_contract_free(&b->contract);
    ipsb_endpoints_free(&b->contact.receivers);
    free(b->arrays);
    free(b->agreed);
    free(b->pieces.items);
    free(b->contract_frame);
    free(b->hosts);
    ipsb_buffer_free(&b->where);
    ipsb_buffer_free(&b->model);
    free(b->model_views);
    free(b->blob);
    free(b);
}
