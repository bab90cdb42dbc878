/* Connections to receivers. Nothing here blocks but ipsb_progress, and that no longer than told:
 * sockets are non-blocking, and every link is a small state machine that progress moves. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "ips_internal.h"

static const int64_t MS = 1000000, SECOND = 1000000000;
enum {
    SMALL = 64 << 10, /* below this, copying cells behind their header is cheaper */
    STREAM = 128 << 10,
    READ = 64 << 10,
    MAX_QUEUE = 1 << 20
};

int64_t ipsb_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

/* ---- Items ---------------------------------------------------------------------------------- */

static void push(items *list, item *one)
{
    one->next = NULL;
    if (list->last)
        list->last->next = one;
    else
        list->first = one;
    list->last = one;
}

static item *pop(items *list)
{
    item *one = list->first;
    if (one) {
        list->first = one->next;
        if (!list->first)
            list->last = NULL;
    }
    return one;
}

static bool enqueue(peer *k, item *one)
{
    if (!one)
        return false;
    push(&k->queue, one);
    k->n_queue++;
    return true;
}

bool ipsb_enqueue_piece(peer *k, slot *s, size_t piece)
{
    item *one = k->n_queue < MAX_QUEUE ? calloc(1, sizeof *one) : NULL;
    if (!one)
        return false;
    one->seq = ++k->seq;
    one->slot = s;
    one->piece = piece;
    s->pending++;
    return enqueue(k, one);
}

bool ipsb_enqueue_frame(peer *k, buffer *frame, bool numbered)
{
    item *one = NULL;
    if (!frame->failed && k->n_queue < MAX_QUEUE)
        one = calloc(1, sizeof *one + frame->length);
    if (one) {
        one->length = frame->length;
        memcpy(one->frame, frame->data, frame->length);
        if (numbered) {
            one->seq = ++k->seq;
            set64(one->frame + 8, one->seq); /* the header's number */
        }
    }
    ipsb_buffer_free(frame);
    return enqueue(k, one);
}

/* Give a slot back; `for_ever`: the receiver may go on reading it and cannot say when it is done. */
static void drop_item(item *one, bool for_ever)
{
    slot *s = one->slot;
    if (s) {
        s->pending--;
        s->abandoned |= for_ever && s->fd >= 0;
    }
    free(one);
}

static void drop_all(items *list, bool for_ever)
{
    for (item *one = pop(list); one; one = pop(list))
        drop_item(one, for_ever);
}

bool ipsb_taken(peer *k, uint64_t seq)
{
    if (seq > k->packed_seq || (k->bulk && seq >= k->bulk->seq)) {
        snprintf(k->why, sizeof k->why, "it took what was not sent");
        return false;
    }
    while (k->unacked.first && k->unacked.first->seq <= seq) {
        item *one = pop(&k->unacked);
        if (one->slot && k->shm && one->slot->fd >= 0)
            push(&k->held, one);
        else
            drop_item(one, false);
    }
    return true;
}

void ipsb_released(peer *k, uint64_t seq)
{
    item *before = NULL;
    for (item *one = k->held.first; one; before = one, one = one->next) {
        if (one->seq != seq)
            continue;
        if (before)
            before->next = one->next;
        else
            k->held.first = one->next;
        if (k->held.last == one)
            k->held.last = before;
        drop_item(one, false);
        return;
    }
}

bool ipsb_welcomed(peer *k, uint64_t last_seq)
{
    items again = {NULL, NULL};
    if (last_seq > k->seq) {
        snprintf(k->why, sizeof k->why, "it took what was not sent");
        return false;
    }
    for (item *one = pop(&k->unacked); one; one = pop(&k->unacked)) {
        if (one->seq > last_seq) {
            /* The connection before may have made a chunk of the slot, and can no longer give it
             * back: it is sent from once more, and never written again. */
            if (one->slot && one->slot->fd >= 0)
                one->slot->abandoned = true;
            push(&again, one);
        } else
            drop_item(one, true);
    }
    drop_all(&k->held, true);
    if (again.first) {
        for (item *one = again.first; one; one = one->next)
            k->n_queue++;
        again.last->next = k->queue.first;
        if (!k->queue.first)
            k->queue.last = again.last;
        k->queue.first = again.first;
    }
    k->packed_seq = last_seq;
    return true;
}

/* ---- Links ---------------------------------------------------------------------------------- */

static char *copy(const char *text)
{
    char *out = malloc(strlen(text) + 1);
    return out ? strcpy(out, text) : NULL;
}

static void free_link(peer *k)
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
    free(k->welcome);
    free(k);
}

peer *ipsb_link_add(ips_bridge *b, const endpoint *at)
{
    size_t n = (size_t)b->contract.n_arrays + 1;
    peer *k = calloc(1, sizeof *k), **more;
    if (!k)
        return NULL;
    k->fd = k->out_fd = -1;
    k->index = b->n_links;
    k->at = *at;
    k->at.host = copy(at->host);
    k->at.unix_name = copy(at->unix_name);
    k->at.hostname = copy(at->hostname);
    k->at.boot = copy(at->boot);
    k->admitted = calloc(n, sizeof *k->admitted);
    k->wanted = calloc(n, sizeof *k->wanted);
    more = realloc(b->links, sizeof *more * (b->n_links + 1));
    if (more)
        b->links = more;
    if (!more || !k->at.host || !k->at.unix_name || !k->at.hostname || !k->at.boot ||
        !k->admitted || !k->wanted) {
        free_link(k);
        return NULL;
    }
    k->local = at->boot[0] && !strcmp(at->boot, b->boot) && !strcmp(at->hostname, b->hostname);
    b->links[b->n_links++] = k;
    return k;
}

peer *ipsb_link_of(ips_bridge *b, uint32_t ordinal)
{
    for (uint32_t i = 0; i < b->n_links; i++)
        if (b->links[i]->at.ordinal == ordinal && !b->links[i]->removed)
            return b->links[i];
    return NULL;
}

static void hang_up(peer *k)
{
    if (k->fd >= 0)
        close(k->fd);
    k->fd = k->out_fd = -1;
    k->in.length = k->out.length = k->out_at = 0;
    k->bulk = NULL;
    k->generation++;
}

void ipsb_link_end(peer *k)
{
    hang_up(k);
    drop_all(&k->queue, false);
    drop_all(&k->unacked, true);
    drop_all(&k->held, true);
    k->n_queue = 0;
    k->standing = LINK_GONE;
}

void ipsb_links_free(ips_bridge *b)
{
    for (uint32_t i = 0; i < b->n_links; i++)
        free_link(b->links[i]);
    free(b->links);
    b->links = NULL;
    b->home = NULL;
    b->n_links = 0;
}

bool ipsb_link_idle(const peer *k)
{
    return !k->queue.first && !k->bulk && k->out_at == k->out.length;
}

/* A connection is over: it will be repaired, unless it has done its duty. */
static void broken(peer *k, const char *format, ...)
{
    bool open = k->standing == LINK_OPEN;
    char why[sizeof k->why];
    va_list values;
    va_start(values, format);
    vsnprintf(why, sizeof why, format, values);
    va_end(values);
    memcpy(k->why, why, sizeof why);
    hang_up(k);
    if (k->bye_acked) {
        ipsb_link_end(k);
        return;
    }
    k->standing = LINK_BROKEN;
    if (open) {
        k->broken_since = k->retry_at = ipsb_now();
        k->pause = 50 * MS;
    } else {
        k->retry_at = ipsb_now() + k->pause;
        k->pause = 2 * k->pause < SECOND ? 2 * k->pause : SECOND;
    }
}

/* ---- Connecting ----------------------------------------------------------------------------- */

static void greet(ips_bridge *b, peer *k)
{
    buffer info = {0};
    hello h = {.token = b->contact.token, .digest = b->has_contract ? b->digest : NULL,
               .run = b->contact.run, .rank = (uint32_t)b->rank, .size = (uint32_t)b->size,
               .epoch = b->epoch, .pid = (uint64_t)getpid(), .session = b->session,
               .wants_contract = !b->has_contract};
    k->standing = LINK_GREETING;
    k->heard = ipsb_now();
    ipsb_hello_info(b, &info);
    h.info = info.data;
    h.info_length = info.length;
    k->out.length = k->out_at = 0;
    ipsb_pack_hello(&k->out, &h);
    if (info.failed || k->out.failed)
        broken(k, "no memory for a hello");
    else
        ipsb_pump(k);
    ipsb_buffer_free(&info);
}

/* Connect over the Unix socket; false when another lane should be tried. */
static bool dial_unix(ips_bridge *b, peer *k)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred who = {0};
    socklen_t length = sizeof who;
    const char *name = k->at.unix_name;
    size_t n = strlen(name);
    if (!k->local || !n || n >= sizeof address.sun_path || !(b->lanes & LANE_SHM))
        return false;
    memcpy(address.sun_path, name, n);
    if (name[0] == '@')
        address.sun_path[0] = '\0';
    k->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (k->fd < 0)
        return false;
    /* The length says where an abstract name ends; a path ends with a NUL. */
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (name[0] != '@'));
    if (connect(k->fd, (struct sockaddr *)&address, size)) {
        int error = errno;
        if (error == EAGAIN || !(b->lanes & LANE_TCP) || b->contact.tls) {
            broken(k, "its Unix socket: %s", strerror(error));
            return true;
        }
        close(k->fd); /* another network namespace (a container): TCP may still reach it */
        k->fd = -1;
        return false;
    }
    if (getsockopt(k->fd, SOL_SOCKET, SO_PEERCRED, &who, &length) || who.uid != geteuid()) {
        broken(k, "its Unix socket belongs to user %lu, not %lu", (unsigned long)who.uid,
               (unsigned long)geteuid());
        return true;
    }
    k->shm = true;
    greet(b, k);
    return true;
}

static void dial_tcp(ips_bridge *b, peer *k)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *found = NULL;
    char port[8];
    int one = 1, error = 0;
    k->shm = false;
    if (!(b->lanes & LANE_TCP)) {
        broken(k, "it is not on this machine, and only the lane shm is allowed");
        return;
    }
    if (b->contact.tls) {
        broken(k, "it takes TCP connections with TLS only");
        k->barred = true;
        return;
    }
    snprintf(port, sizeof port, "%u", k->at.port);
    if (getaddrinfo(k->at.host, port, &hints, &found)) { /* not a number: ask for the name */
        hints.ai_flags = 0;
        int why = getaddrinfo(k->at.host, port, &hints, &found);
        if (why) {
            broken(k, "%s", gai_strerror(why));
            return;
        }
    }
    for (struct addrinfo *at = found; at; at = at->ai_next) {
        k->fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (k->fd < 0) {
            error = errno;
            continue;
        }
        (void)setsockopt(k->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        error = connect(k->fd, at->ai_addr, at->ai_addrlen) ? errno : 0;
        if (!error || error == EINPROGRESS)
            break;
        close(k->fd);
        k->fd = -1;
    }
    freeaddrinfo(found);
    if (k->fd < 0)
        broken(k, "%s", strerror(error));
    else if (!error)
        greet(b, k);
}

static void dial(ips_bridge *b, peer *k)
{
    int64_t limit = (int64_t)(b->contact.connect * 0.5e9);
    k->standing = LINK_CONNECTING;
    k->attempt_until = ipsb_now() + (limit < 5 * SECOND ? limit : 5 * SECOND);
    if (!dial_unix(b, k))
        dial_tcp(b, k);
}

void ipsb_link_start(ips_bridge *b, peer *k)
{
    if (k->standing != LINK_NEW)
        return;
    k->broken_since = ipsb_now();
    k->pause = 50 * MS;
    dial(b, k);
}

static void connected(ips_bridge *b, peer *k)
{
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(k->fd, SOL_SOCKET, SO_ERROR, &error, &length))
        error = errno;
    if (error)
        broken(k, "%s", strerror(error));
    else
        greet(b, k);
}

/* ---- Sending -------------------------------------------------------------------------------- */

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
    size_t some = left < room ? left : room / itemsize * itemsize;
    if (!some) /* a single cell is larger */
        some = itemsize;
    for (int d = 0; d < cells->ndim; d++)
        count[d] = dst[3 * d + 1];
    if (!ipsb_reserve(&k->out, some))
        return;
    ipsb_gather(k->out.data + k->out.length, s->memory + cells->offset, cells->ndim, count, strides,
                itemsize, (int64_t)(k->bulk_at / itemsize), (int64_t)(some / itemsize));
    k->out.length += some;
    k->bulk_at += some;
    if (k->bulk_at == cells->bytes)
        k->bulk = NULL;
}

/* Pack what is queued, up to some bytes or to the first large piece, whose cells then follow. */
static void fill(peer *k)
{
    while (k->queue.first && k->out.length < SMALL && !k->bulk) {
        item *one = k->queue.first;
        slot *s = one->slot;
        bool failed = false;
        if (s && k->shm && s->fd >= 0) {
            /* A descriptor travels with the first byte of what is sent. */
            if (k->out.length && (k->index >= s->n_announced ||
                                  s->announced[k->index] != k->generation))
                return;
            if (!announced(k, s, &failed)) {
                if (failed)
                    return;
                k->out_fd = s->fd;
                ipsb_pack_slot(&k->out, s->number, s->ring, s->size, s->length, s->spare);
            }
        }
        pop(&k->queue);
        k->n_queue--;
        if (!s) {
            ipsb_append(&k->out, one->frame, one->length);
        } else {
            const stored *cells = &s->stored[one->piece];
            const int64_t *dst = s->numbers + cells->numbers, *strides = dst + 3 * cells->ndim;
            uint64_t chunk = (uint64_t)cells->chunk, t = (uint64_t)cells->t;
            if (k->shm && s->fd >= 0) {
                ipsb_pack_piece(&k->out, cells->array, one->seq, chunk, t, cells->ndim, dst, 0,
                                s->number, cells->offset, strides);
            } else {
                ipsb_pack_piece(&k->out, cells->array, one->seq, chunk, t, cells->ndim, dst,
                                cells->bytes, NO_SLOT, 0, NULL);
                k->bulk = one;
                k->bulk_at = 0;
            }
        }
        if (one->seq) {
            k->packed_seq = one->seq;
            push(&k->unacked, one);
        } else {
            free(one);
        }
        if (k->bulk && s->stored[one->piece].bytes <= SMALL)
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

void ipsb_pump(peer *k)
{
    while (k->fd >= 0 && (k->standing == LINK_OPEN || k->standing == LINK_GREETING)) {
        if (k->out_at == k->out.length) {
            k->out_at = k->out.length = 0;
            if (!k->bulk && k->standing == LINK_OPEN)
                fill(k);
            else if (k->bulk && !k->bulk->slot->stored[k->bulk->piece].dense)
                stream(k, STREAM);
        }
        if (k->out.failed) {
            k->out.failed = false;
            broken(k, "no memory for messages");
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
                broken(k, "sending failed: %s", strerror(errno));
            return;
        }
        k->out_fd = -1;
        size_t head = k->out.length - k->out_at, n = (size_t)sent;
        k->out_at += n < head ? n : head;
        if (n > head) {
            k->bulk_at += n - head;
            if (k->bulk_at == k->bulk->slot->stored[k->bulk->piece].bytes)
                k->bulk = NULL;
        }
    }
}

/* ---- Receiving ------------------------------------------------------------------------------ */

static bool allowed(const peer *k, uint8_t op)
{
    if (k->standing == LINK_GREETING)
        return op == OP_WELCOME || op == OP_REFUSED;
    if (op == OP_BYE_ACK)
        return k->left;
    return op != OP_WELCOME && !(op == OP_REFUSED && k->left);
}

/* Act on all whole messages in the buffer. */
static void understand(ips_bridge *b, peer *k)
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
            broken(k, "it sent %s (message %d)", wrong, frame[5]);
            return;
        }
        at += HEADER_BYTES + head.body;
        bool fine = ipsb_take(b, k, &m);
        if (k->generation != generation) /* it was hung up meanwhile */
            return;
        if (!fine) {
            broken(k, "%s", k->why);
            return;
        }
    }
    memmove(k->in.data, k->in.data + at, k->in.length - at);
    k->in.length -= at;
}

static void readable(ips_bridge *b, peer *k)
{
    for (int turn = 0; turn < 16 && k->fd >= 0; turn++) {
        if (!ipsb_reserve(&k->in, READ)) {
            k->in.failed = false;
            broken(k, "no memory for messages");
            return;
        }
        size_t room = k->in.room - k->in.length;
        ssize_t n = recv(k->fd, k->in.data + k->in.length, room, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n < 0) {
            broken(k, "receiving failed: %s", strerror(errno));
            return;
        }
        if (n == 0) {
            broken(k, k->standing == LINK_GREETING
                          ? "it closed the connection without a word: its token may be another"
                          : "closed by the receiver");
            return;
        }
        k->heard = ipsb_now();
        k->in.length += (size_t)n;
        understand(b, k);
        if ((size_t)n < room)
            return;
    }
}

/* ---- Progress ------------------------------------------------------------------------------- */

static void repair(ips_bridge *b, peer *k, int64_t now)
{
    int64_t limit = (int64_t)(b->contact.connect * 1e9);
    if (now - k->broken_since > limit)
        ipsb_link_end(k);
    else if (now >= k->retry_at)
        dial(b, k);
}

/* When no link is open, try those never used; when all are gone, the analytics are lost. */
static void look_for_company(ips_bridge *b)
{
    bool trouble = false, hope = false;
    for (uint32_t i = 0; i < b->n_links; i++) {
        const peer *k = b->links[i];
        if (k->standing == LINK_OPEN)
            return;
        trouble |= k->standing == LINK_BROKEN || k->standing == LINK_GONE;
        hope |= k->standing != LINK_GONE;
    }
    for (uint32_t i = 0; i < b->n_links && trouble; i++)
        ipsb_link_start(b, b->links[i]);
    if (!hope && !b->lost[0]) {
        const peer *last = b->n_links ? b->links[b->n_links - 1] : NULL;
        if (last)
            snprintf(b->lost, sizeof b->lost, "no receiver is left: receiver %u at %s:%u: %s",
                     last->at.ordinal, last->at.host, last->at.port, last->why);
        else
            snprintf(b->lost, sizeof b->lost, "no receiver is left: none was named");
    }
}

static void duties(ips_bridge *b, int64_t now)
{
    for (uint32_t i = 0; i < b->n_links; i++) {
        peer *k = b->links[i];
        switch (k->standing) {
        case LINK_CONNECTING:
        case LINK_GREETING:
            if (now > k->attempt_until)
                broken(k, "it did not answer the hello in time: it may be stopped or overloaded");
            break;
        case LINK_OPEN:
            if (now - k->heard > k->silence)
                broken(k, "no sign of life for %g s", (double)k->silence / 1e9);
            break;
        case LINK_BROKEN:
            repair(b, k, now);
            break;
        default:
            break;
        }
    }
    if (b->joined && !b->closed)
        look_for_company(b);
}

/* What the caller computed between two calls counts neither as silence nor as delay. */
static void forgive(ips_bridge *b, int64_t gap)
{
    for (uint32_t i = 0; i < b->n_links; i++) {
        b->links[i]->heard += gap;
        b->links[i]->attempt_until += gap;
        b->links[i]->broken_since += gap;
    }
}

static int until_next_duty(const ips_bridge *b, int64_t now, int64_t until)
{
    int64_t wait = until - now, longest = 250 * MS;
    if (wait <= 0)
        return 0;
    for (uint32_t i = 0; i < b->n_links; i++)
        if (b->links[i]->standing == LINK_BROKEN && b->links[i]->retry_at - now < longest)
            longest = b->links[i]->retry_at > now ? b->links[i]->retry_at - now : 0;
    if (wait > longest)
        wait = longest;
    return (int)((wait + MS - 1) / MS);
}

void ipsb_progress(ips_bridge *b, int64_t until)
{
    struct pollfd few[32], *polls = few;
    int64_t now = ipsb_now();
    uint32_t n = b->n_links; /* messages may add links: they have their turn next time */
    if (now - b->last_progress > 100 * MS)
        forgive(b, now - b->last_progress);
    if (n > sizeof few / sizeof *few) {
        polls = malloc(sizeof *polls * n);
        if (!polls)
            return;
    }
    for (uint32_t i = 0; i < n; i++) {
        const peer *k = b->links[i];
        bool write = k->standing == LINK_CONNECTING || k->bulk || k->out_at < k->out.length ||
                     (k->queue.first && k->standing == LINK_OPEN);
        polls[i] = (struct pollfd){.fd = k->fd, .events = (short)(POLLIN | (write ? POLLOUT : 0))};
    }
    int ready = poll(polls, n, until_next_duty(b, now, until));
    for (uint32_t i = 0; i < n && ready > 0; i++) {
        peer *k = b->links[i];
        if (!polls[i].revents || k->fd != polls[i].fd)
            continue;
        if (k->standing == LINK_CONNECTING) {
            connected(b, k);
            continue;
        }
        if (polls[i].revents & (POLLIN | POLLHUP | POLLERR))
            readable(b, k);
        if (k->fd == polls[i].fd && !ipsb_link_idle(k))
            ipsb_pump(k);
    }
    if (polls != few)
        free(polls);
    now = ipsb_now();
    duties(b, now);
    b->last_progress = ipsb_now();
}
