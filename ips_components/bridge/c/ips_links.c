/* All connections of a rank. Nothing here blocks but ipsb_progress, and that no longer than it is
 * allowed to: every link is a small state machine that progress moves. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ips_links.h"
#include "ips_proof.h"

static const int64_t MS = 1000000, SECOND = 1000000000;

/* Replace the name of a host by its address: asking for a name may wait, so it is done once, when a
 * call adds the link that may wait anyway, and again only if that failed. */
static int resolve(peer *k)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *found = NULL;
    char address[NI_MAXHOST], *copied;
    int failed = getaddrinfo(k->at.host, NULL, &hints, &found);
    if (!failed) {
        freeaddrinfo(found);
        return 0;
    }
    hints.ai_flags = 0;
    failed = getaddrinfo(k->at.host, NULL, &hints, &found);
    if (failed)
        return failed;
    failed = getnameinfo(found->ai_addr, found->ai_addrlen, address, sizeof address, NULL, 0,
                         NI_NUMERICHOST);
    freeaddrinfo(found);
    if (failed)
        return failed;
    copied = malloc(strlen(address) + 1);
    if (!copied)
        return EAI_MEMORY;
    free(k->at.host);
    k->at.host = strcpy(copied, address);
    return 0;
}

peer *ipsb_link_add(links *l, const endpoint *at)
{
    const identity *self = l->self;
    peer *k = ipsb_link_make(at, l->n, l->n_arrays), **more;
    if (!k)
        return NULL;
    more = realloc(l->items, sizeof *more * (l->n + 1));
    if (!more) {
        ipsb_link_free(k);
        return NULL;
    }
    l->items = more;
    if (l->lanes & LANE_TCP && !l->contact->tls)
        (void)resolve(k); /* dialling says why it failed */
    k->local = at->boot[0] && !strcmp(at->boot, self->boot) && !strcmp(at->hostname, self->hostname);
    return l->items[l->n++] = k;
}

peer *ipsb_link_of(const links *l, uint32_t ordinal)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (l->items[i]->at.ordinal == ordinal && !l->items[i]->removed)
            return l->items[i];
    return NULL;
}

/* The link over which this rank reports. */
peer *ipsb_home(links *l)
{
    if (l->home && l->home->state == LINK_OPEN)
        return l->home;
    for (uint32_t i = 0; i < l->n; i++)
        if (l->items[i]->state == LINK_OPEN)
            return l->home = l->items[i];
    return l->home && l->home->state != LINK_CLOSED ? l->home : NULL;
}

void ipsb_links_free(links *l)
{
    for (uint32_t i = 0; i < l->n; i++)
        ipsb_link_free(l->items[i]);
    free(l->items);
    l->items = NULL;
    l->home = NULL;
    l->n = 0;
}

/* ---- Connecting -------------------------------------------------------------------------------- */

static void greet(const links *l, peer *k)
{
    k->state = LINK_GREETING;
    k->challenged = k->deserted = false;
    k->last_received = ipsb_now();
    k->out.length = k->out_at = 0;
    if (getrandom(k->nonce, sizeof k->nonce, 0) != sizeof k->nonce) {
        ipsb_link_broken(k, "the kernel gave no random numbers");
        return;
    }
    ipsb_pack_greeting(&k->out, k->nonce, l->self->session);
    if (k->out.failed)
        ipsb_link_broken(k, "no memory for a greeting");
    else
        ipsb_flush(k);
}

bool ipsb_link_challenged(links *l, peer *k, const message *m)
{
    uint8_t expected[PROOF_BYTES], proof[PROOF_BYTES];
    const channel c = {k->nonce, m->nonce, l->self->session, k->at.id};
    buffer info = {0};
    ipsb_proof_of_receiver(expected, l->contact->token, &c);
    if (!ipsb_same_proof(expected, m->proof)) {
        snprintf(k->why, sizeof k->why, "it does not know the token of the run, or is another receiver of it: the "
                 "contact file may be of another run, or another process has taken the port");
        return false;
    }
    ipsb_proof_of_rank(proof, l->contact->token, &c);
    hello h = {.proof = proof, .digest = l->self->has_contract ? l->self->digest : NULL,
               .run = l->contact->run, .rank = (uint32_t)l->self->rank, .size = (uint32_t)l->self->size,
               .epoch = l->self->epoch, .pid = (uint64_t)getpid(), .session = l->self->session,
               .wants_contract = !l->self->has_contract};
    k->challenged = true;
    l->ops.hello_info(l->ops.owner, &info);
    h.info = info.data;
    h.info_length = info.length;
    ipsb_pack_hello(&k->out, &h);
    bool packed = !info.failed && !k->out.failed;
    ipsb_buffer_free(&info);
    if (packed)
        ipsb_flush(k);
    else
        snprintf(k->why, sizeof k->why, "no memory for a hello");
    return packed;
}

/* Connect over the Unix socket; false when another lane should be tried. */
static bool dial_unix(links *l, peer *k)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred who = {0};
    socklen_t length = sizeof who;
    const char *name = k->at.unix_name;
    size_t n = strlen(name);
    if (!k->local || !n || n >= sizeof address.sun_path || !(l->lanes & LANE_SHM))
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
        if (error == EAGAIN || !(l->lanes & LANE_TCP) || l->contact->tls) {
            k->deserted = error == ECONNREFUSED;
            ipsb_link_broken(k, "its Unix socket: %s", strerror(error));
            return true;
        }
        close(k->fd); /* another network namespace (a container): TCP may still reach it */
        k->fd = -1;
        return false;
    }
    if (getsockopt(k->fd, SOL_SOCKET, SO_PEERCRED, &who, &length) || who.uid != geteuid()) {
        ipsb_link_broken(k, "its Unix socket belongs to user %lu, not %lu", (unsigned long)who.uid,
               (unsigned long)geteuid());
        return true;
    }
    k->shm = true;
    greet(l, k);
    return true;
}

/* Another network namespace (a container) has a loopback interface of its own. */
static void unreachable(peer *k, int error)
{
    k->deserted = error == ECONNREFUSED;
    if (strncmp(k->at.host, "127.", 4) && strcmp(k->at.host, "::1"))
        ipsb_link_broken(k, "%s", strerror(error));
    else
        ipsb_link_broken(k,
                         "%s; it listens on the loopback interface only: a process in a container with a "
                         "network of its own needs LOOPBACK = False in the section of the analytics",
                         strerror(error));
}

static void dial_tcp(links *l, peer *k)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *found = NULL;
    char port[8];
    int enabled = 1, error = 0;
    k->shm = false;
    if (!(l->lanes & LANE_TCP)) {
        ipsb_link_broken(k, "it is not on this machine, and only the lane shm is allowed");
        return;
    }
    if (l->contact->tls) {
        ipsb_link_broken(k, "it takes TCP connections with TLS only");
        k->needs_tls = true;
        return;
    }
    snprintf(port, sizeof port, "%u", k->at.port);
    if ((error = resolve(k)) || (error = getaddrinfo(k->at.host, port, &hints, &found))) {
        ipsb_link_broken(k, "%s", gai_strerror(error));
        return;
    }
    for (struct addrinfo *at = found; at; at = at->ai_next) {
        k->fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (k->fd < 0) {
            error = errno;
            continue;
        }
        (void)setsockopt(k->fd, IPPROTO_TCP, TCP_NODELAY, &enabled, sizeof enabled);
        error = connect(k->fd, at->ai_addr, at->ai_addrlen) ? errno : 0;
        if (!error || error == EINPROGRESS)
            break;
        close(k->fd);
        k->fd = -1;
    }
    freeaddrinfo(found);
    if (k->fd < 0)
        unreachable(k, error);
    else if (!error)
        greet(l, k);
}

static void dial(links *l, peer *k)
{
    int64_t limit = (int64_t)(l->contact->connect * 0.5e9);
    k->state = LINK_CONNECTING;
    k->attempt_until = ipsb_now() + (limit < 5 * SECOND ? limit : 5 * SECOND);
    if (!dial_unix(l, k))
        dial_tcp(l, k);
}

void ipsb_link_start(links *l, peer *k)
{
    if (k->state != LINK_NEW)
        return;
    k->broken_since = ipsb_now();
    k->pause = 50 * MS;
    dial(l, k);
}

static void connected(const links *l, peer *k)
{
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(k->fd, SOL_SOCKET, SO_ERROR, &error, &length))
        error = errno;
    if (error)
        unreachable(k, error);
    else
        greet(l, k);
}

/* ---- Progress ---------------------------------------------------------------------------------- */

static void reconnect(links *l, peer *k, int64_t now)
{
    int64_t limit = (int64_t)(l->contact->connect * 1e9);
    if (now - k->broken_since > limit)
        ipsb_link_end(k);
    else if (now >= k->retry_at)
        dial(l, k);
}

/* When no link is open, try those never used; when all are gone, the analytics are lost. */
static void connect_unused_links(links *l)
{
    bool trouble = false, possible = false;
    for (uint32_t i = 0; i < l->n; i++) {
        const peer *k = l->items[i];
        if (k->state == LINK_OPEN)
            return;
        trouble |= k->state == LINK_RECONNECTING || k->state == LINK_CLOSED;
        possible |= k->state != LINK_CLOSED;
    }
    for (uint32_t i = 0; i < l->n && trouble; i++)
        ipsb_link_start(l, l->items[i]);
    if (!possible && !l->lost[0]) {
        const peer *last = l->n ? l->items[l->n - 1] : NULL;
        if (last)
            snprintf(l->lost, sizeof l->lost, "no receiver is left: receiver %u at %s:%u: %s",
                     last->at.ordinal, last->at.host, last->at.port, last->why);
        else
            snprintf(l->lost, sizeof l->lost, "no receiver is left: none was named");
    }
}

static void check_timeouts(links *l, int64_t now)
{
    for (uint32_t i = 0; i < l->n; i++) {
        peer *k = l->items[i];
        switch (k->state) {
        case LINK_CONNECTING:
        case LINK_GREETING:
            if (now > k->attempt_until)
                ipsb_link_broken(k, "it did not answer the hello in time: it may be stopped or overloaded");
            break;
        case LINK_OPEN:
            if (now - k->last_received > k->silence)
                ipsb_link_broken(k, "no sign of life for %g s", (double)k->silence / 1e9);
            break;
        case LINK_RECONNECTING:
            reconnect(l, k, now);
            break;
        default:
            break;
        }
    }
    if (l->joined)
        connect_unused_links(l);
}

/* What the caller computed between two calls counts neither as silence nor as delay. */
static void discount_compute_time(links *l, int64_t gap)
{
    for (uint32_t i = 0; i < l->n; i++) {
        l->items[i]->last_received += gap;
        l->items[i]->attempt_until += gap;
        l->items[i]->broken_since += gap;
    }
}

static int time_to_wait(const links *l, int64_t now, int64_t until)
{
    int64_t wait = until - now, longest = 250 * MS;
    if (wait <= 0)
        return 0;
    for (uint32_t i = 0; i < l->n; i++)
        if (l->items[i]->state == LINK_RECONNECTING && l->items[i]->retry_at - now < longest)
            longest = l->items[i]->retry_at > now ? l->items[i]->retry_at - now : 0;
    if (wait > longest)
        wait = longest;
    return (int)((wait + MS - 1) / MS);
}

void ipsb_progress(links *l, int64_t until)
{
    struct pollfd few[32], *polls = few;
    int64_t now = ipsb_now();
    uint32_t n = l->n; /* messages may add links: they have their turn next time */
    if (now - l->last_progress > 100 * MS)
        discount_compute_time(l, now - l->last_progress);
    if (n > sizeof few / sizeof *few) {
        polls = malloc(sizeof *polls * n);
        if (!polls)
            return;
    }
    for (uint32_t i = 0; i < n; i++) {
        const peer *k = l->items[i];
        bool write = k->state == LINK_CONNECTING || k->bulk || k->out_at < k->out.length ||
                     (k->queue.first && k->state == LINK_OPEN);
        polls[i] = (struct pollfd){.fd = k->fd, .events = (short)(POLLIN | (write ? POLLOUT : 0))};
    }
    int ready = poll(polls, n, time_to_wait(l, now, until));
    for (uint32_t i = 0; i < n && ready > 0; i++) {
        peer *k = l->items[i];
        if (!polls[i].revents || k->fd != polls[i].fd)
            continue;
        if (k->state == LINK_CONNECTING) {
            connected(l, k);
            continue;
        }
        if (polls[i].revents & (POLLIN | POLLHUP | POLLERR))
            ipsb_link_read(k, &l->ops);
        if (k->fd == polls[i].fd && !ipsb_link_idle(k))
            ipsb_flush(k);
    }
    if (polls != few)
        free(polls);
    now = ipsb_now();
    check_timeouts(l, now);
    l->last_progress = ipsb_now();
}
