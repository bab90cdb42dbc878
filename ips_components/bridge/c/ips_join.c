/* The request, of rank 0 or of each rank, and the join of all ranks. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

#include "ips_dispatch.h"
#include "ips_feedback.h"
#include "ips_join.h"

static const char BLOB[] = "IPSBLOB1";
static const int64_t MAX_STAGGER = 500000000; /* ns for one receiver before the next is tried */
enum { BLOB_HEAD = 32 };

static int begin_session(ips_bridge *b)
{
    const char *lane = getenv("IPS_COMPONENTS_LANE");
    b->links.lanes = b->contact.lanes;
    if (lane && *lane)
        b->links.lanes = !strcmp(lane, "shm") ? LANE_SHM : LANE_TCP;
    if (getrandom(&b->self.session, sizeof b->self.session, 0) != sizeof b->self.session)
        return ipsb_fail(b, IPS_BRIDGE_SYSTEM, "no random numbers: %s", strerror(errno));
    return IPS_BRIDGE_OK;
}

static int add_links(ips_bridge *b, const endpoints *receivers)
{
    b->links.n_arrays = b->contract.n_arrays;
    for (uint32_t i = 0; i < receivers->n; i++)
        if (!ipsb_link_of(&b->links, receivers->items[i].ordinal) &&
            !ipsb_link_add(&b->links, &receivers->items[i]))
            return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for connections");
    return IPS_BRIDGE_OK;
}

/* Start with the next link that was never tried, unless another one was started just now: a
 * receiver that does not answer must not cost the others the time to connect. */
void ipsb_dial_next(ips_bridge *b)
{
    int64_t share = (int64_t)(b->contact.connect * 1e9) / (2 * ((int64_t)b->links.n + 1));
    int64_t patience = share < MAX_STAGGER ? share : MAX_STAGGER, now = ipsb_now();
    for (uint32_t i = 0; i < b->links.n; i++) {
        const peer *k = b->links.items[i];
        if ((k->state == LINK_CONNECTING || k->state == LINK_GREETING) &&
            now - k->broken_since < patience)
            return;
    }
    /* This rank's own turn first, but where TCP is no way those that are here. */
    for (int near = b->contact.tls; near >= 0; near--) {
        for (uint32_t i = 0; i < b->links.n; i++) {
            peer *k = b->links.items[((uint32_t)b->self.rank + i) % b->links.n];
            if (k->state == LINK_NEW && (k->local || !near)) {
                ipsb_link_start(&b->links, k);
                return;
            }
        }
    }
}

/* Connect to some receiver. */
static int connect_any(ips_bridge *b, bool patient, peer **out)
{
    int64_t deadline = ipsb_now() + (int64_t)(b->contact.connect * 1e9);
    const peer *last = NULL;
    for (;;) {
        bool possible = false;
        ipsb_dial_next(b);
        for (uint32_t i = 0; i < b->links.n; i++) {
            peer *k = b->links.items[i];
            if (k->state == LINK_OPEN) {
                *out = k;
                return IPS_BRIDGE_OK;
            }
            if (k->why[0])
                last = k;
            if (k->refused && !patient)
                return ipsb_fail(b, IPS_BRIDGE_REFUSED, "receiver %u at %s:%u: %s", k->at.ordinal,
                                 k->at.host, k->at.port, k->why);
            possible |= k->state != LINK_CLOSED && !k->needs_tls;
        }
        if (!possible || ipsb_now() >= deadline)
            break;
        ipsb_progress(&b->links, deadline);
    }
    if (last && last->needs_tls)
        return ipsb_fail_needs_tls(b, last);
    if (!last)
        return ipsb_fail(b, IPS_BRIDGE_DEADLINE,
                         "no receiver could be reached within %g s: %s", b->contact.connect,
                         b->links.n ? "none answered; are the Dask workers running, and their "
                                      "addresses reachable from this node?"
                                    : "the contact file names none");
    return ipsb_fail(b, last->refused ? IPS_BRIDGE_REFUSED : IPS_BRIDGE_DEADLINE,
                     "no receiver could be reached within %g s: receiver %u at %s:%u: %s; are the "
                     "Dask workers running, and their addresses reachable from this node?",
                     b->contact.connect, last->at.ordinal, last->at.host, last->at.port, last->why);
}

/* ---- The request -------------------------------------------------------------------------------- */

static const char ALONE[] = "this program runs alone: there is no contact file, and nothing is sent";

/* The path of the contact file; empty where neither the program nor the environment names one. */
static const char *contact_path(const char *path)
{
    const char *named = path && *path ? path : getenv("IPS_COMPONENTS_CONTACT");
    return named ? named : "";
}

/* Whether the program wants to run without a contact file. */
static bool wants_to_be_alone(const ips_bridge *b)
{
    const char *text = getenv("IPS_COMPONENTS_ALONE");
    return b->may_be_alone || (text && *text && strcmp(text, "0") != 0);
}

void ips_bridge_pause(double seconds)
{
    long long ns = (long long)(seconds * 1e9);
    struct timespec rest = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    nanosleep(&rest, NULL);
}

static int wait_for_contact(ips_bridge *b, const char *path, buffer *record)
{
    char why[sizeof b->errors.text];
    const char *text = getenv("IPS_COMPONENTS_DEADLINE");
    double limit = 60;
    int64_t began = ipsb_now();
    double pause = 0.01;
    path = contact_path(path);
    if (!*path)
        return ipsb_fail(b, IPS_BRIDGE_CONTACT,
                         "no contact file: neither the program nor the environment variable "
                         "IPS_COMPONENTS_CONTACT names one; ips.py sets it. To run the program "
                         "by itself, set IPS_COMPONENTS_ALONE=1 (or call ips_bridge_set_alone): "
                         "then nothing is sent");
    if (text && *text) {
        char *end;
        limit = strtod(text, &end);
        if (*end || !(limit >= 0))
            return ipsb_fail(b, IPS_BRIDGE_CONTACT,
                             "IPS_COMPONENTS_DEADLINE must be a number of seconds, got %s", text);
    }
    for (;;) {
        bool missing;
        int code = ipsb_contact_read(path, record, &missing, why, sizeof why);
        if (!missing)
            return code ? ipsb_fail(b, code, "%s", why) : code;
        if ((double)(ipsb_now() - began) / 1e9 + pause > limit)
            return ipsb_fail(b, IPS_BRIDGE_CONTACT,
                             "no contact file at %s after %g s: the analytics have not started; "
                             "see their log, or raise IPS_COMPONENTS_DEADLINE",
                             path, limit);
        /* A file system has no portable signal for a new file: look again, ever less often. */
        ips_bridge_pause(pause);
        pause = 2 * pause < 0.05 ? 2 * pause : 0.05;
    }
}

static int ask_contract(ips_bridge *b)
{
    peer *k;
    int code = connect_any(b, false, &k);
    int64_t deadline = ipsb_now() + (int64_t)(b->contact.contract * 1e9);
    while (!code && !b->contract_frame) {
        bool possible = false;
        if (b->fault)
            code = ipsb_fail(b, IPS_BRIDGE_CONTRACT,
                             "the run failed before there was a contract: %s", b->fault_text);
        if (!code && ipsb_now() >= deadline)
            code = ipsb_fail(b, IPS_BRIDGE_DEADLINE,
                             "no contract came within %g s: the analysis has not submitted its "
                             "graph; see the analysis' log",
                             b->contact.contract);
        for (uint32_t i = 0; i < b->links.n; i++)
            possible |= b->links.items[i]->state != LINK_CLOSED;
        if (!code && !possible)
            code = ipsb_fail(b, IPS_BRIDGE_LOST, "the receivers went away before the contract came");
        if (code)
            break;
        bool open = false;
        for (uint32_t i = 0; i < b->links.n; i++)
            open |= b->links.items[i]->state == LINK_OPEN;
        if (!open)
            ipsb_dial_next(b);
        ipsb_progress(&b->links, deadline);
    }
    return code;
}

/* Ask, and go on without a contract when the receivers that were asked are gone and the policy allows it. */
static int ask(ips_bridge *b, const char *path, buffer *record)
{
    const char *wrong;
    int code;
    if (!*contact_path(path) && wants_to_be_alone(b)) {
        if (b->self.rank == 0)
            fprintf(stderr, "ips_components: %s\n", ALONE);
        return IPS_BRIDGE_OK; /* an empty record */
    }
    code = wait_for_contact(b, path, record);
    if (code)
        return code;
    ipsb_endpoints_free(&b->contact.receivers);
    wrong = ipsb_contact_parse(&b->contact, record->data, record->length);
    if (wrong)
        return ipsb_fail(b, IPS_BRIDGE_CONTACT, "%s", wrong);
    if ((code = begin_session(b)) || (code = add_links(b, &b->contact.receivers)))
        return code;
    code = ask_contract(b);
    return code == IPS_BRIDGE_LOST && !b->contact.abort_on_loss ? IPS_BRIDGE_OK : code;
}

int ips_bridge_request(ips_bridge *b, const char *contact, const void **blob, size_t *length)
{
    buffer record = {0}, out = {0};
    uint8_t head[BLOB_HEAD] = {0};
    ips_bridge_error_handler handler;
    int code;
    if (!b || !blob || !length)
        return IPS_BRIDGE_USAGE;
    handler = b->errors.handler;
    b->errors.handler = NULL; /* the others wait for the blob: the error is theirs too, at the join */
    free(b->blob);
    b->blob = NULL;
    *blob = NULL;
    *length = 0;
    if (b->joined || b->closed)
        code = ipsb_fail(b, IPS_BRIDGE_USAGE, "a rank asks for the contract before its join");
    else
        code = ask(b, contact, &record);
    if (code) {
        record.length = 0;
        ipsb_append(&record, b->errors.text, strlen(b->errors.text));
    }
    memcpy(head, BLOB, 8);
    set32(head + 8, (uint32_t)code);
    set64(head + 16, record.length);
    set64(head + 24, code || !b->contract_frame ? 0 : b->contract_length);
    ipsb_append(&out, head, sizeof head);
    ipsb_append(&out, record.data, record.length);
    if (!code && b->contract_frame)
        ipsb_append(&out, b->contract_frame, b->contract_length);
    ipsb_buffer_free(&record);
    /* The connections for data are made with all that the contract says of this rank. */
    ipsb_links_free(&b->links);
    ipsb_feedback_free(b);
    free(b->contract_frame);
    b->contract_frame = NULL;
    b->errors.handler = handler;
    if (out.failed) {
        ipsb_buffer_free(&out);
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for the contract");
    }
    *blob = b->blob = out.data;
    *length = b->blob_length = out.length;
    return code;
}

/* ---- Joining ----------------------------------------------------------------------------------- */

/* Take a contract: the body of ContractIs. */
static int take_contract(ips_bridge *b, const uint8_t *body, uint64_t length)
{
    const char *wrong;
    message m;
    endpoints receivers;
    int code;
    header head = {.op = OP_CONTRACT, .body = (uint32_t)length};
    wrong = length > UINT32_MAX ? "a contract that is too long" : ipsb_parse(&m, &head, body);
    if (wrong)
        return ipsb_fail(b, IPS_BRIDGE_CONTRACT, "the receiver sent %s", wrong);
    memcpy(b->self.digest, m.digest, DIGEST_BYTES);
    b->first_step = m.step;
    b->launch = m.ordinal;
    b->many_launches = m.launch_flags & LAUNCH_MANY;
    b->newest = m.step - 1;
    b->awaited = (int)(m.launch_flags >> LAUNCH_AWAITED & LAUNCH_MAX_AWAITED);
    b->shift = m.launch_flags & LAUNCH_RENUMBER ? m.step : 0;
    wrong = ipsb_contract_parse(&b->contract, m.contract, m.contract_length);
    if (wrong)
        return ipsb_fail(b, IPS_BRIDGE_CONTRACT, "%s", wrong);
    b->self.has_contract = true;
    wrong = ipsb_parse_endpoints(&receivers, m.receivers, m.receivers_length);
    code = wrong ? ipsb_fail(b, IPS_BRIDGE_CONTRACT, "%s", wrong) : begin_session(b);
    if (!code)
        code = add_links(b, &receivers);
    ipsb_endpoints_free(&receivers);
    return code;
}

/* Take rank 0's blob apart: its error, or contact and contract. */
static int unpack(ips_bridge *b, const uint8_t *blob, size_t length)
{
    uint64_t first, second;
    const char *wrong;
    int code;
    if (!blob || length < BLOB_HEAD || memcmp(blob, BLOB, 8) != 0)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "rank 0 broadcast something that is not the blob of its request");
    code = (int)get32(blob + 8);
    first = get64(blob + 16);
    second = get64(blob + 24);
    if (first > length - BLOB_HEAD || second != length - BLOB_HEAD - first)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "the blob of rank 0's request is cut short");
    if (code)
        return ipsb_fail(b, code, "%.*s", (int)(first < 1000 ? first : 1000),
                         (const char *)blob + BLOB_HEAD);
    if (!first && !second) {
        b->alone = b->self.has_contract = true;
        snprintf(b->links.lost, sizeof b->links.lost, "%s", ALONE);
        return IPS_BRIDGE_OK;
    }
    ipsb_endpoints_free(&b->contact.receivers);
    wrong = ipsb_contact_parse(&b->contact, blob + BLOB_HEAD, (size_t)first);
    if (wrong)
        return ipsb_fail(b, IPS_BRIDGE_CONTACT, "%s", wrong);
    if (!second) { /* no receiver is left: nothing is wanted */
        b->self.has_contract = true;
        snprintf(b->links.lost, sizeof b->links.lost, "the receivers went away before there was a contract");
        return begin_session(b);
    }
    return take_contract(b, blob + BLOB_HEAD + first, second);
}

/* How many segments may have a descriptor: half of what the process may open is the program's, and
 * receivers map so many (wire/leases.py). */
static size_t descriptors_for_segments(void)
{
    const size_t mapped = 4096;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur / 2 > mapped)
        return mapped;
    return (size_t)limit.rlim_cur / 2;
}

/* Match arrays and contract, and find out what memory may be shared. */
static int join_arrays(ips_bridge *b)
{
    int code = ipsb_arrays_join(b);
    for (uint32_t i = 0; i < b->links.n; i++)
        b->shared |= b->links.items[i]->local && b->links.items[i]->at.unix_name[0] && b->links.lanes & LANE_SHM;
    b->segment_limits.max_segments = descriptors_for_segments();
    return code;
}

int ips_bridge_join(ips_bridge *b, const void *blob, size_t length)
{
    int code;
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (b->joined || b->closed || b->self.has_contract)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "a bridge joins once");
    if ((code = unpack(b, blob, length)) || (code = join_arrays(b)))
        return code;
    if (!b->links.lost[0] && (code = connect_any(b, true, &b->links.home)))
        return code;
    b->joined = b->links.joined = true;
    if (b->awaited && b->attached_calls)
        (void)b->attached_calls->wait(b, b->awaited);
    return IPS_BRIDGE_OK;
}

/* ---- Attached runs ----------------------------------------------------------------------------- */

int ipsb_ask_begin(ips_bridge *b, const uint8_t *contact, size_t length)
{
    const char *wrong = ipsb_contact_parse(&b->contact, contact, length);
    int code = wrong ? ipsb_fail(b, IPS_BRIDGE_CONTACT, "%s", wrong) : begin_session(b);
    return code ? code : add_links(b, &b->contact.receivers);
}

int ipsb_join_asked(ips_bridge *b)
{
    int code;
    /* The connections for data are made with all that the contract says of this rank. */
    ipsb_links_free(&b->links);
    ipsb_feedback_free(b);
    code = take_contract(b, b->contract_frame, b->contract_length);
    return code ? code : join_arrays(b);
}
