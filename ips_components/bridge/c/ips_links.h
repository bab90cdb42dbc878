/* All connections of a rank: dialling, waiting, giving up. */
#ifndef IPS_LINKS_H
#define IPS_LINKS_H

#include "ips_link.h"

/* What a rank is, for receivers. */
typedef struct identity {
    int rank, size;
    uint64_t session;
    uint32_t epoch; /* of the placement that it follows */
    bool has_contract;
    uint8_t digest[DIGEST_BYTES];
    char hostname[256], boot[64];
} identity;

typedef struct links {
    peer **items;
    uint32_t n;
    peer *home; /* over which this rank reports */
    const identity *self;
    const contact *contact;
    link_ops ops;
    int n_arrays;
    uint32_t lanes;
    bool joined; /* from the join to the close: the loss of all receivers matters */
    char lost[512];
    int64_t last_progress;
} links;

peer *ipsb_link_add(links *l, const endpoint *at);
peer *ipsb_link_of(const links *l, uint32_t ordinal); /* NULL: not in the placement any more */
void ipsb_link_start(links *l, peer *k);              /* connect a new link */
bool ipsb_link_challenged(links *l, peer *k, const message *m); /* false: not trusted, see k->why */
peer *ipsb_home(links *l);                            /* an open link, or NULL */
void ipsb_links_free(links *l);
/* Send and receive what is possible; wait at most until `until` (ns; 0: do not wait). */
void ipsb_progress(links *l, int64_t until);

#endif
