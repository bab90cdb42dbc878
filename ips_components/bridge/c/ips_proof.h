/* Proofs that a side knows the run's token, as ips_components/wire/proof.py describes them. */
#ifndef IPS_PROOF_H
#define IPS_PROOF_H

#include "ips_wire.h"

/* HMAC-SHA256 (RFC 2104, FIPS 180-4) of a message. */
void ipsb_hmac_sha256(uint8_t out[PROOF_BYTES], const uint8_t *key, size_t key_length,
                      const uint8_t *data, size_t length);
/* One connection: the nonces of both sides, the session of the rank, and the id of the receiver that
 * the rank means. */
typedef struct channel {
    const uint8_t *rank_nonce, *receiver_nonce;
    uint64_t session, receiver;
} channel;

void ipsb_proof_of_rank(uint8_t out[PROOF_BYTES], const uint8_t *token, const channel *c);
void ipsb_proof_of_receiver(uint8_t out[PROOF_BYTES], const uint8_t *token, const channel *c);
/* Compare in a time that does not depend on the bytes. */
bool ipsb_same_proof(const uint8_t *a, const uint8_t *b);

#endif
