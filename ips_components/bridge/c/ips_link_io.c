/* Sending and reading on one connection. Sockets are non-blocking: nothing here waits. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "ips_link.h"

enum {
    SMALL = 64 << 10, /* below this, copying cells behind their header is cheaper */
    STREAM = 128 << 10,
    READ = 64 << 10
};

/* ---- Sending ----------------------------------------------------------------------------------- */

/* Note that a connection knows a slot; false: it did not. */
static bool announced(peer *k, slot *s, bool *failed)
{
    if (k->index >= s->n_announced) {
        uint32_t *more = realloc(s->announced, sizeof *more * (k->index + 1));
        *failed = !more;
        if (!more)
            return false;
        memset(more + s->n_announced, 0xFF, sizeof *more * (k->index + 1 - s->n_announced));
        s->announced = more;
        s->n_announced = k->index + 1;
    }
    if (s->announced[k->index] == k->generation)
        return true;
    s->announced[k->index] = k->generation;
    return false;
}

/* Append cells of the present piece to `out`: at most `room` bytes of them. */
static void stream(peer *k, size_t room)
{
    const slot *s = k->bulk->slot;
    const stored *cells = &s->stored[k->bulk->piece];
    const int64_t *dst = s->numbers + cells->numbers, *strides = dst + 3 * cells->ndim;
    int64_t count[MAX_NDIM];
    size_t itemsize = cells->bytes / (size_t)cells->cells, left = cells->bytes - k->bulk_at;
    size_t length = left < room ? left : room / itemsize * itemsize;
    if (!length) /* a single cell is larger */
        length = itemsize;
    for (int d = 0; d < cells->ndim; d++)
        count[d] = dst[3 * d + 1];
    if (!ipsb_reserve(&k->out, length))
        return;
    ipsb_gather(k->out.data + k->out.length, s->memory + cells->offset, cells->ndim, count, strides,
                itemsize, (int64_t)(k->bulk_at / itemsize), (int64_t)(length / itemsize));
    k->out.length += length;
    k->bulk_at += length;
    if (k->bulk_at == cells->bytes)
        k->bulk = NULL;
}

/* Pack what is queued, up to some bytes or to the first large piece, whose cells then follow. */
static void fill(peer *k)
{
    while (k->queue.first && k->out.length < SMALL && !k->bulk) {
        item *entry = k->queue.first;
        slot *s = entry->slot;
        bool failed = false, none = s && !s->stored[entry->piece].bytes;
        if (s && !none && k->shm && s->segment) {
            /* A descriptor travels with the first byte of what is sent. */
            if (k->out.length && (k->index >= s->n_announced ||
                                  s->announced[k->index] != k->generation))
                return;
            if (!announced(k, s, &failed)) {
                if (failed)
                    return;
                k->out_fd = s->segment->fd;
                ipsb_pack_slot(&k->out, s->number, s->ring, s->size, s->length,
                                s->length - ipsb_may_hold(s->holders, k->index),
                                s->segment->number, s->at);
            }
        }
        ipsb_pop(&k->queue);
        k->n_queue--;
        if (!s) {
            ipsb_append(&k->out, entry->frame, entry->length);
        } else {
            const stored *cells = &s->stored[entry->piece];
            const int64_t *dst = s->numbers + cells->numbers, *strides = dst + 3 * cells->ndim;
            uint64_t chunk = (uint64_t)cells->chunk, t = (uint64_t)cells->t;
            if (none) { /* rows by ids, of which this rank has none for the chunk */
                ipsb_pack_rows(&k->out, cells->array, entry->seq, chunk, t, 0);
            } else if (k->shm && s->segment) {
                entry->leased = true;
                entry->generation = ++s->generation;
                ipsb_pack_piece(&k->out, cells->array, entry->seq, chunk, t, 0, cells->ndim, dst, 0,
                                s->number, entry->generation, cells->offset, strides);
            } else {
                ipsb_pack_piece(&k->out, cells->array, entry->seq, chunk, t,
                                s->lent ? PIECE_ANSWER_NOW : 0, cells->ndim, dst, cells->bytes,
                                NO_SLOT, 0, 0, NULL);
                k->bulk = entry;
                k->bulk_at = 0;
            }
        }
        if (entry->seq) {
            k->packed_seq = entry->seq;
            ipsb_push(&k->unacked, entry);
        } else {
            free(entry);
        }
        if (k->bulk && s->stored[entry->piece].bytes <= SMALL)
            stream(k, SMALL);
    }
}

static ssize_t send_some(peer *k)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec parts[2];
    struct msghdr message = {.msg_iov = parts};
    if (k->out_at < k->out.length) {
        parts[message.msg_iovlen].iov_base = k->out.data + k->out_at;
        parts[message.msg_iovlen++].iov_len = k->out.length - k->out_at;
    }
    if (k->bulk) {
        const slot *s = k->bulk->slot;
        const stored *cells = &s->stored[k->bulk->piece];
        parts[message.msg_iovlen].iov_base = s->memory + cells->offset + k->bulk_at;
        parts[message.msg_iovlen++].iov_len = cells->bytes - k->bulk_at;
    }
    if (k->out_fd >= 0) {
        struct cmsghdr *head;
        memset(&control, 0, sizeof control);
        message.msg_control = control.space;
        message.msg_controllen = sizeof control.space;
        head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &k->out_fd, sizeof(int));
    }
    return sendmsg(k->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void ipsb_flush(peer *k)
{
    while (k->fd >= 0 && (k->state == LINK_OPEN || k->state == LINK_GREETING)) {
        if (k->out_at == k->out.length) {
            k->out_at = k->out.length = 0;
            if (!k->bulk && k->state == LINK_OPEN)
                fill(k);
            else if (k->bulk && !k->bulk->slot->stored[k->bulk->piece].dense)
                stream(k, STREAM);
        }
        if (k->out.failed) {
            k->out.failed = false;
            ipsb_link_broken(k, "no memory for messages");
            return;
        }
        if (k->out_at == k->out.length && !k->bulk)
            return;
        /* Cells with gaps go through `out`; only dense ones are sent from where they lie. */
        item *bulk = k->bulk;
        if (bulk && !bulk->slot->stored[bulk->piece].dense)
            k->bulk = NULL;
        ssize_t sent = k->out_at < k->out.length || k->bulk ? send_some(k) : 0;
        k->bulk = bulk;
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                ipsb_link_broken(k, "sending failed: %s", strerror(errno));
            return;
        }
        k->out_fd = -1;
        if (sent > 0)
            k->last_sent = ipsb_now();
        size_t head = k->out.length - k->out_at, n = (size_t)sent;
        k->out_at += n < head ? n : head;
        if (n > head) {
            k->bulk_at += n - head;
            if (k->bulk_at == k->bulk->slot->stored[k->bulk->piece].bytes)
                k->bulk = NULL;
        }
    }
}

/* ---- Receiving --------------------------------------------------------------------------------- */

static bool allowed(const peer *k, uint8_t op)
{
    if (k->state == LINK_GREETING)
        return op == (k->challenged ? OP_WELCOME : OP_CHALLENGE) || op == OP_REFUSED;
    if (op == OP_BYE_ACK)
        return k->bye_sent;
    return op != OP_WELCOME && op != OP_CHALLENGE && !(op == OP_REFUSED && k->bye_sent);
}

/* Act on all whole messages in the buffer. */
static void parse_frames(peer *k, const link_ops *ops)
{
    size_t at = 0;
    uint32_t generation = k->generation;
    while (k->in.length - at >= HEADER_BYTES) {
        header head;
        message m;
        const uint8_t *frame = k->in.data + at;
        const char *wrong = ipsb_parse_header(&head, frame);
        if (!wrong && k->in.length - at - HEADER_BYTES < head.body)
            break;
        if (!wrong)
            wrong = ipsb_parse(&m, &head, frame + HEADER_BYTES);
        if (!wrong && !allowed(k, head.op))
            wrong = "a message that is not its turn";
        if (wrong) {
            ipsb_link_broken(k, "it sent %s (message %d)", wrong, frame[5]);
            return;
        }
        at += HEADER_BYTES + head.body;
        bool fine = ops->message(ops->owner, k, &m);
        if (k->generation != generation) /* it was hung up meanwhile */
            return;
        if (!fine) {
            ipsb_link_broken(k, "%s", k->why);
            return;
        }
    }
    memmove(k->in.data, k->in.data + at, k->in.length - at);
    k->in.length -= at;
}

void ipsb_link_read(peer *k, const link_ops *ops)
{
    for (int turn = 0; turn < 16 && k->fd >= 0; turn++) {
        if (!ipsb_reserve(&k->in, READ)) {
            k->in.failed = false;
            ipsb_link_broken(k, "no memory for messages");
            return;
        }
        size_t room = k->in.room - k->in.length;
        ssize_t n = recv(k->fd, k->in.data + k->in.length, room, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n < 0) {
            ipsb_link_broken(k, "receiving failed: %s", strerror(errno));
            return;
        }
        if (n == 0) {
            ipsb_link_broken(k, k->state == LINK_GREETING
                          ? "it closed the connection without a word: its token may be another"
                          : "closed by the receiver");
            return;
        }
        k->last_received = ipsb_now();
        k->in.length += (size_t)n;
        parse_frames(k, ops);
        if ((size_t)n < room)
            return;
    }
}
